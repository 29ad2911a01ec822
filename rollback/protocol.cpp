#include "rollback/protocol.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "rollback/keeper.pb.h"

namespace relive::rollback {

namespace {

constexpr std::array<char, 4> kMagic = {'r', 'l', 'v', '1'};

std::unexpected<Error> malformed(std::string_view what) {
  return fail(ErrorKind::usage, fmt::format("malformed message: {}", what));
}

// Values to messages.

void put(protocol::Error& out, const Error& error) {
  out.set_kind(static_cast<std::uint32_t>(error.kind));
  out.set_what(error.what);
  out.set_errno_value(error.errno_value);
  out.set_hint(error.hint);
  for (const auto& line : error.context) out.add_context(line);
}

void put(protocol::SnapshotInfo& out, const SnapshotInfo& info) {
  out.set_name(info.name);
  out.set_pid(info.pid.value);
  out.set_created_ns(info.created_ns);
  out.set_tasks(info.tasks);
  out.set_threads(info.threads);
  out.set_mappings(info.mappings);
  out.set_pages(info.pages);
  out.set_descriptors(info.descriptors);
  out.set_tracker(info.tracker);
  out.set_command(info.command);
  for (const std::string& directory : info.directories) out.add_directories(directory);
  out.set_files(info.files);
  out.set_file_bytes(info.file_bytes);
}

void put(protocol::Refusal& out, const diff::Refusal& refusal) {
  out.set_object(refusal.object);
  out.set_reason(refusal.reason);
  out.set_hint(refusal.hint);
}

struct PutAnswer {
  protocol::Response& out;

  void operator()(const SnapshotReport& report) const {
    auto& message = *out.mutable_snapshot();
    put(*message.mutable_info(), report.info);
    message.set_frozen_us(report.frozen_us);
    message.set_pages_copied(report.pages_copied);
    message.set_faults_passed(report.faults_passed);
  }
  void operator()(const RollbackReport& report) const {
    auto& message = *out.mutable_rollback();
    message.set_fate(static_cast<std::uint32_t>(report.fate));
    message.set_frozen_us(report.frozen_us);
    message.set_tasks(report.tasks);
    message.set_threads(report.threads);
    message.set_pages(report.pages);
    message.set_mappings(report.mappings);
    message.set_descriptors(report.descriptors);
    message.set_tracker(report.tracker);
    for (const auto& stage : report.stages) {
      auto& added = *message.add_stages();
      added.set_name(stage.name);
      added.set_us(stage.us);
    }
    for (const auto& note : report.notes) message.add_notes(note);
    for (const auto& refusal : report.refusals) put(*message.add_refusals(), refusal);
    if (report.error) put(*message.mutable_error(), *report.error);
    for (const auto& line : report.plan) message.add_plan(line);
    message.set_dot(report.dot);
    message.set_faults_passed(report.faults_passed);
    message.set_files(report.files);
    message.set_file_bytes(report.file_bytes);
    message.set_at_rest(report.at_rest);
  }
  void operator()(const DiffReport& report) const {
    auto& message = *out.mutable_diff();
    for (const auto& difference : report.differences) {
      auto& added = *message.add_differences();
      added.set_family(static_cast<std::uint32_t>(difference.family));
      added.set_sign(static_cast<std::uint32_t>(difference.sign));
      added.set_object(difference.object);
      added.set_text(difference.text);
      added.set_pages(difference.pages);
    }
    for (const auto& refusal : report.refusals) put(*message.add_refusals(), refusal);
    message.set_frozen_us(report.frozen_us);
  }
  void operator()(const ListReport& report) const {
    auto& message = *out.mutable_list();
    for (const auto& info : report.snapshots) put(*message.add_snapshots(), info);
  }
  void operator()(const ShowReport& report) const {
    auto& message = *out.mutable_show();
    put(*message.mutable_info(), report.info);
    for (const auto& task : report.tasks) {
      auto& shown = *message.add_tasks();
      shown.set_pid(task.pid.value);
      shown.set_parent(task.parent.value);
      shown.set_name(task.name);
      for (const auto& thread : task.threads) {
        auto& added = *shown.add_threads();
        added.set_tid(thread.tid.value);
        added.set_name(thread.name);
        added.set_instruction(thread.instruction);
        added.set_stack(thread.stack);
        added.set_blocked_signals(thread.blocked_signals);
        added.set_pending_signals(thread.pending_signals);
      }
      for (const auto& mapping : task.mappings) {
        auto& added = *shown.add_mappings();
        added.set_begin(mapping.range.begin);
        added.set_end(mapping.range.end);
        added.set_access(mapping.access);
        added.set_offset(mapping.offset);
        added.set_name(mapping.name);
      }
      for (const auto& descriptor : task.descriptors) {
        auto& added = *shown.add_descriptors();
        added.set_fd(descriptor.fd);
        added.set_kind(descriptor.kind);
        added.set_text(descriptor.text);
        added.set_close_on_exec(descriptor.close_on_exec);
      }
      for (const auto& value : task.process) {
        auto& added = *shown.add_process();
        added.set_name(value.name);
        added.set_value(value.value);
      }
    }
  }
  void operator()(const DropReport& report) const {
    auto& message = *out.mutable_drop();
    for (const auto& name : report.dropped) message.add_dropped(name);
  }
  void operator()(const ImageProgress& progress) const {
    out.mutable_progress()->set_done(progress.done);
    out.mutable_progress()->set_all(progress.all);
  }
  void operator()(const ImageReport& report) const {
    auto& message = *out.mutable_image();
    message.set_directory(report.directory);
    message.set_pages(report.pages);
    message.set_bytes(report.bytes);
    message.set_us(report.us);
    message.set_faults_passed(report.faults_passed);
  }
};

struct PutCommand {
  protocol::Request& out;

  void operator()(const SnapshotOptions& options) const {
    auto& message = *out.mutable_snapshot();
    message.set_name(options.name);
    message.set_replace(options.replace);
    if (options.tracker) message.set_tracker(std::string(tracking::tracker_name(*options.tracker)));
    for (const std::string& directory : options.files.directories) message.add_directories(directory);
    message.set_store(options.files.store);
    message.set_take_events(options.take_events);
  }
  void operator()(const RollbackOptions& options) const {
    auto& message = *out.mutable_rollback();
    message.set_name(options.name);
    message.set_image(options.image);
    message.set_dry_run(options.dry_run);
    message.set_kill_on_failure(options.on_failure == OnFailure::kill);
  }
  void operator()(const DiffOptions& options) const { out.mutable_diff()->set_name(options.name); }
  void operator()(const ListOptions&) const { out.mutable_list(); }
  void operator()(const ShowOptions& options) const { out.mutable_show()->set_name(options.name); }
  void operator()(const DropOptions& options) const {
    out.mutable_drop()->set_name(options.name);
    out.mutable_drop()->set_all(options.all);
  }
  void operator()(const ImageOptions& options) const {
    out.mutable_image()->set_name(options.name);
    out.mutable_image()->set_directory(options.directory);
  }
};

// Messages to values.

Result<Error> take(const protocol::Error& message) {
  if (message.kind() > static_cast<std::uint32_t>(ErrorKind::injected)) return malformed("error kind");
  Error error{static_cast<ErrorKind>(message.kind()), message.what(), message.errno_value(), message.hint(), {}};
  error.context.assign(message.context().begin(), message.context().end());
  return error;
}

SnapshotInfo take(const protocol::SnapshotInfo& message) {
  return {message.name(),
          {message.pid()},
          message.created_ns(),
          message.tasks(),
          message.threads(),
          message.mappings(),
          message.pages(),
          message.descriptors(),
          message.tracker(),
          message.command(),
          {message.directories().begin(), message.directories().end()},
          message.files(),
          message.file_bytes()};
}

diff::Refusal take(const protocol::Refusal& message) { return {message.object(), message.reason(), message.hint()}; }

Result<Answer> take(const protocol::RollbackReport& message) {
  if (message.fate() > static_cast<std::uint32_t>(apply::Fate::killed)) return malformed("fate");
  RollbackReport report;
  report.fate = static_cast<apply::Fate>(message.fate());
  report.frozen_us = message.frozen_us();
  report.tasks = message.tasks();
  report.threads = message.threads();
  report.pages = message.pages();
  report.mappings = message.mappings();
  report.descriptors = message.descriptors();
  report.tracker = message.tracker();
  for (const auto& stage : message.stages()) report.stages.push_back({stage.name(), stage.us()});
  report.notes.assign(message.notes().begin(), message.notes().end());
  for (const auto& refusal : message.refusals()) report.refusals.push_back(take(refusal));
  if (message.has_error()) report.error = RELIVE_TRY(take(message.error()));
  report.plan.assign(message.plan().begin(), message.plan().end());
  report.dot = message.dot();
  report.faults_passed = message.faults_passed();
  report.files = message.files();
  report.file_bytes = message.file_bytes();
  report.at_rest = message.at_rest();
  return report;
}

Result<Answer> take(const protocol::DiffReport& message) {
  DiffReport report;
  for (const auto& difference : message.differences()) {
    if (difference.family() > static_cast<std::uint32_t>(diff::Family::file)) return malformed("family");
    if (difference.sign() > static_cast<std::uint32_t>(diff::Sign::changed)) return malformed("sign");
    report.differences.push_back({static_cast<diff::Family>(difference.family()),
                                  static_cast<diff::Sign>(difference.sign()), difference.object(), difference.text(),
                                  difference.pages()});
  }
  for (const auto& refusal : message.refusals()) report.refusals.push_back(take(refusal));
  report.frozen_us = message.frozen_us();
  return report;
}

ShownTask take(const protocol::ShownTask& message) {
  ShownTask task{.pid = {message.pid()},
                 .parent = {message.parent()},
                 .name = message.name(),
                 .threads = {},
                 .mappings = {},
                 .descriptors = {},
                 .process = {}};
  for (const auto& thread : message.threads())
    task.threads.push_back({{thread.tid()},
                            thread.name(),
                            thread.instruction(),
                            thread.stack(),
                            thread.blocked_signals(),
                            thread.pending_signals()});
  for (const auto& mapping : message.mappings())
    task.mappings.push_back({{mapping.begin(), mapping.end()}, mapping.access(), mapping.offset(), mapping.name()});
  for (const auto& descriptor : message.descriptors())
    task.descriptors.push_back({descriptor.fd(), descriptor.kind(), descriptor.text(), descriptor.close_on_exec()});
  for (const auto& value : message.process()) task.process.push_back({value.name(), value.value()});
  return task;
}

Answer take(const protocol::ShowReport& message) {
  ShowReport report{.info = take(message.info()), .tasks = {}};
  for (const auto& task : message.tasks()) report.tasks.push_back(take(task));
  return report;
}

Answer take(const protocol::SnapshotReport& message) {
  return SnapshotReport{take(message.info()), message.frozen_us(), message.pages_copied(), message.faults_passed()};
}

Answer take(const protocol::ListReport& message) {
  ListReport report;
  for (const auto& info : message.snapshots()) report.snapshots.push_back(take(info));
  return report;
}

Answer take(const protocol::DropReport& message) {
  return DropReport{{message.dropped().begin(), message.dropped().end()}};
}

Result<SnapshotOptions> take(const protocol::SnapshotRequest& message) {
  SnapshotOptions options{message.name(), message.replace(), {}, {}, message.take_events()};
  options.files.directories.assign(message.directories().begin(), message.directories().end());
  options.files.store = message.store();
  for (const std::string& path : options.files.directories)
    if (!path.starts_with('/') || path.find('\0') != std::string::npos) return malformed("directory");
  if (!message.tracker().empty()) options.tracker = RELIVE_TRY(tracking::parse_tracker(message.tracker()));
  return options;
}

template <class Message>
std::string bytes_of(const Message& message) {
  return message.SerializeAsString();
}

}  // namespace

std::string encode(const Request& request) {
  protocol::Request message;
  message.set_version(kProtocolVersion);
  message.set_pid(request.key.pid.value);
  message.set_start_time(request.key.start_time);
  message.set_fault(request.fault);
  std::visit(PutCommand{message}, request.command);
  return bytes_of(message);
}

std::string encode(const Result<Answer>& response) {
  protocol::Response message;
  message.set_version(kProtocolVersion);
  if (response)
    std::visit(PutAnswer{message}, *response);
  else
    put(*message.mutable_error(), response.error());
  return bytes_of(message);
}

std::string encode(const Error& error) {
  protocol::Error message;
  put(message, error);
  return bytes_of(message);
}

Result<Error> decode_error(std::string_view bytes) {
  protocol::Error message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return malformed("not an error");
  return take(message);
}

Result<Request> decode_request(std::string_view bytes) {
  protocol::Request message;
  if (bytes.size() > kRequestLimit || !message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return malformed("not a request");
  if (message.version() != kProtocolVersion)
    return fail(ErrorKind::unsupported,
                fmt::format("this keeper speaks version {} of the protocol, the command {}", kProtocolVersion,
                            message.version()),
                "use the release of relive that took the snapshot");
  Request request{{{message.pid()}, message.start_time()}, message.fault(), ListOptions{}};
  switch (message.command_case()) {
    case protocol::Request::kSnapshot:
      request.command = RELIVE_TRY(take(message.snapshot()));
      return request;
    case protocol::Request::kRollback:
      request.command =
          RollbackOptions{message.rollback().name(), message.rollback().image(), message.rollback().dry_run(),
                          message.rollback().kill_on_failure() ? OnFailure::kill : OnFailure::stop};
      return request;
    case protocol::Request::kDiff:
      request.command = DiffOptions{message.diff().name()};
      return request;
    case protocol::Request::kList:
      return request;
    case protocol::Request::kShow:
      request.command = ShowOptions{message.show().name()};
      return request;
    case protocol::Request::kDrop:
      request.command = DropOptions{message.drop().name(), message.drop().all()};
      return request;
    case protocol::Request::kImage:
      request.command = ImageOptions{message.image().name(), message.image().directory()};
      return request;
    case protocol::Request::COMMAND_NOT_SET:
      break;
  }
  return malformed("no command");
}

Result<Answer> decode_response(std::string_view bytes) {
  protocol::Response message;
  if (bytes.size() > kResponseLimit || !message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return malformed("not a response");
  if (message.has_error()) return std::unexpected(RELIVE_TRY(take(message.error())));
  switch (message.answer_case()) {
    case protocol::Response::kSnapshot:
      return take(message.snapshot());
    case protocol::Response::kRollback:
      return take(message.rollback());
    case protocol::Response::kDiff:
      return take(message.diff());
    case protocol::Response::kList:
      return take(message.list());
    case protocol::Response::kShow:
      return take(message.show());
    case protocol::Response::kDrop:
      return take(message.drop());
    case protocol::Response::kProgress:
      return ImageProgress{message.progress().done(), message.progress().all()};
    case protocol::Response::kImage:
      return ImageReport{message.image().directory(), message.image().pages(), message.image().bytes(),
                         message.image().us(), message.image().faults_passed()};
    case protocol::Response::ANSWER_NOT_SET:
      break;
  }
  return malformed("no answer");
}

Result<void> send_frame(int fd, std::string_view bytes) {
  std::string frame(kMagic.begin(), kMagic.end());
  const auto length = static_cast<std::uint32_t>(bytes.size());
  frame.append(reinterpret_cast<const char*>(&length), sizeof length);
  frame.append(bytes);
  for (std::size_t sent = 0; sent < frame.size();) {
    ssize_t n = ::send(fd, frame.data() + sent, frame.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == ENOTSOCK) n = ::write(fd, frame.data() + sent, frame.size() - sent);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("send", "a message");
    sent += static_cast<std::size_t>(n);
  }
  return {};
}

namespace {

Result<void> receive_all(int fd, char* into, std::size_t bytes, bool first) {
  for (std::size_t got = 0; got < bytes;) {
    const ssize_t n = ::read(fd, into + got, bytes - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == ECONNRESET && first && got == 0) return fail(ErrorKind::not_found, "the other side hung up");
    if (n < 0) return fail_errno("receive", "a message");
    if (n == 0 && first && got == 0) return fail(ErrorKind::not_found, "the other side hung up");
    if (n == 0) return fail(ErrorKind::system, "a message broke off");
    got += static_cast<std::size_t>(n);
  }
  return {};
}

}  // namespace

Result<std::string> receive_frame(int fd, std::size_t limit) {
  std::array<char, 8> head{};
  RELIVE_TRY(receive_all(fd, head.data(), head.size(), true));
  std::uint32_t length = 0;
  std::memcpy(&length, head.data() + kMagic.size(), sizeof length);
  if (std::memcmp(head.data(), kMagic.data(), kMagic.size()) != 0) return malformed("no magic");
  if (length > limit) return malformed("too long");
  std::string bytes(length, '\0');
  RELIVE_TRY(receive_all(fd, bytes.data(), bytes.size(), false));
  return bytes;
}

}  // namespace relive::rollback
