#include "rollback/keeper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <utility>

#include "base/fault.h"
#include "base/log.h"
#include "rollback/image_out.h"
#include "task/frozen_task.h"

namespace relive::rollback {

namespace {

bool has(const Engine& engine, std::string_view name) {
  const auto snapshots = engine.list();
  return std::ranges::any_of(snapshots, [&](const SnapshotInfo& info) { return info.name == name; });
}

std::string free_name(const Engine& engine) {
  for (int number = 1;; ++number)
    if (std::string name = fmt::format("snap-{}", number); !has(engine, name)) return name;
}

Result<void> require(const Engine& engine, std::string_view name) {
  if (has(engine, name)) return {};
  std::string known;
  for (const auto& info : engine.list()) known += (known.empty() ? "" : ", ") + info.name;
  return fail(ErrorKind::not_found, fmt::format("task {} has no snapshot '{}'", engine.pid().value, name),
              known.empty() ? std::string("it has none") : "it has: " + known);
}

struct Serve {
  Engine& engine;

  Result<Answer> operator()(SnapshotOptions options) const {
    if (options.name.empty()) options.name = free_name(engine);
    return engine.snapshot(options);
  }
  Result<Answer> operator()(const RollbackOptions& options) const {
    if (options.image.empty()) RELIVE_TRY(require(engine, options.name));
    return engine.rollback(options);
  }
  Result<Answer> operator()(const DiffOptions& options) const {
    RELIVE_TRY(require(engine, options.name));
    return engine.diff(options.name);
  }
  Result<Answer> operator()(const ListOptions&) const { return ListReport{engine.list()}; }
  Result<Answer> operator()(const ShowOptions& options) const {
    RELIVE_TRY(require(engine, options.name));
    const model::Tree* tree = engine.find(options.name);
    if (tree == nullptr) return fail(ErrorKind::system, "snapshot '" + options.name + "' has no model");
    for (const auto& info : engine.list())
      if (info.name == options.name) return show(info, *tree);
    return fail(ErrorKind::not_found, "snapshot '" + options.name + "' is gone");
  }
  Result<Answer> operator()(const DropOptions& options) const {
    DropReport report;
    if (!options.all) {
      RELIVE_TRY(require(engine, options.name));
      RELIVE_TRY(engine.drop(options.name));
      report.dropped.push_back(options.name);
      return report;
    }
    for (const auto& info : engine.list()) report.dropped.push_back(info.name);
    RELIVE_TRY(engine.drop_all());
    return report;
  }
  Result<Answer> operator()(const ImageOptions& options) const {
    RELIVE_TRY(require(engine, options.name));
    const auto report = RELIVE_TRY(write_snapshot(RELIVE_TRY(engine.parts(options.name)), options.directory, {}));
    return ImageReport{options.directory, report.pages, report.bytes, 0, faults_passed()};
  }
};

bool may_ask(int connection) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == ::geteuid() || peer.uid == 0;
}

constexpr std::size_t kSilentLimit = 64;                       // connections that have not spoken yet
constexpr timeval kFramePatience{.tv_sec = 30, .tv_usec = 0};  // for the rest of a message that has begun

// Takes a connection in, to be attended once it speaks: a client may be kept from running for seconds between its
// connect() and its first byte, and nobody shall wait for it meanwhile.
void take_in(UniqueFd connection, std::vector<UniqueFd>& silent) {
  if (!connection || !may_ask(connection.get())) return;
  if (silent.size() == kSilentLimit) silent.erase(silent.begin());
  silent.push_back(std::move(connection));
}

// An image is written while the keeper goes on.
Result<ImageWriter> begin_image(Engine& engine, const ImageOptions& options, const std::string& fault, int connection) {
  RELIVE_TRY(require(engine, options.name));
  RELIVE_TRY(FaultPlan::parse(fault));
  ImageWriter writer =
      RELIVE_TRY(start_image_writer(RELIVE_TRY(engine.parts(options.name)), options.directory, connection, fault));
  writer.lease = engine.lease(options.name);
  return writer;
}

// Those that have ended.
void reap(std::vector<ImageWriter>& writers, Engine& engine) {
  std::erase_if(writers, [&](const ImageWriter& writer) {
    if (::waitpid(writer.pid, nullptr, WNOHANG) == 0) return false;
    engine.end_lease(writer.lease);
    return true;
  });
}

// May nothing be left to keep once it is answered?
bool may_be_last(const Request& request) {
  const auto* const rollback = std::get_if<RollbackOptions>(&request.command);
  return std::holds_alternative<SnapshotOptions>(request.command) ||
         std::holds_alternative<DropOptions>(request.command) || (rollback != nullptr && !rollback->image.empty());
}

// Before a snapshot with files is taken: who comes when this keeper has died knows where to look.
Result<void> note_files(const Registry& registry, const Request& request) {
  const auto* const snapshot = std::get_if<SnapshotOptions>(&request.command);
  if (snapshot == nullptr || snapshot->files.directories.empty()) return {};
  std::vector<Registry::FilesOf> files;
  for (const std::string& directory : snapshot->files.directories) files.push_back({directory, snapshot->files.store});
  return registry.note_files(request.key, files);
}

// One client that has begun to speak, to its end. Whatever it sends or fails to send harms only itself. Was it a
// request behind which nothing may be left to keep?
bool attend(UniqueFd connection, const TaskKey& key, const Registry& registry, Engine& engine,
            std::vector<ImageWriter>& writers) {
  ::setsockopt(connection.get(), SOL_SOCKET, SO_RCVTIMEO, &kFramePatience, sizeof kFramePatience);
  ::setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &kFramePatience, sizeof kFramePatience);
  const auto bytes = receive_frame(connection.get(), kRequestLimit);
  if (!bytes && bytes.error().kind == ErrorKind::not_found) return false;  // it only looked whether somebody is here
  const auto request = bytes ? decode_request(*bytes) : std::unexpected(bytes.error());
  Result<Answer> answer = std::unexpected(Error{});
  if (!request)
    answer = std::unexpected(request.error());
  else if (request->key != key)
    answer = fail(ErrorKind::usage,
                  fmt::format("this is the keeper of {}, not of {}", key.pid.value, request->key.pid.value));
  else if (const auto* image = std::get_if<ImageOptions>(&request->command)) {
    auto writer = begin_image(engine, *image, request->fault, connection.get());
    if (writer) {
      writers.push_back(*std::move(writer));
      return false;  // it answers
    }
    answer = std::unexpected(writer.error());
  } else if (const auto noted = note_files(registry, *request); !noted)
    answer = std::unexpected(noted.error());
  else
    answer = serve(engine, *request);
  if (!request) log_debug("keeper: " + request.error().text());
  if (const auto sent = send_frame(connection.get(), encode(answer)); !sent)
    log_debug("keeper: " + sent.error().text());
  return request && may_be_last(*request);
}

struct Keeper {
  Registry registry;
  UniqueFd listener;
  UniqueFd signals;
  std::unique_ptr<Engine> engine;
  std::vector<UniqueFd> silent;  // clients that have not spoken yet
  std::vector<ImageWriter> writers;
};

UniqueFd accept_one(const Keeper& keeper) {
  return UniqueFd(::accept4(keeper.listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
}

// Those who came while the keeper was ending hear why.
void turn_away(Keeper& keeper, const Error& reason) {
  while (UniqueFd connection = accept_one(keeper)) keeper.silent.push_back(std::move(connection));
  const std::string answer = encode(Result<Answer>(std::unexpected(reason)));
  for (const UniqueFd& connection : keeper.silent)
    if (const auto sent = send_frame(connection.get(), answer); !sent) log_debug("keeper: " + sent.error().text());
}

void settle_in() {
  ::prctl(PR_SET_NAME, "relive-keeper");
  ::umask(077);
  if (::chdir("/") != 0) log_debug("keeper: cannot stand in /");
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  ::signal(SIGINT, SIG_IGN);
  ::signal(SIGCHLD, SIG_DFL);
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {  // it holds files for its snapshots
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
}

// With RELIVE_LOG set, what the keeper says goes to a file beside its socket.
void open_log(const Registry& registry, const TaskKey& key) {
  if (std::getenv("RELIVE_LOG") == nullptr) return;
  const UniqueFd file(::open((registry.path() + "/" + key.stem() + ".log").c_str(),
                             O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (file) ::dup2(file.get(), STDERR_FILENO);
}

Result<Keeper> begin(const TaskKey& key) {
  Registry registry = RELIVE_TRY(Registry::open());
  open_log(registry, key);
  settle_in();
  sigset_t term;
  ::sigemptyset(&term);
  ::sigaddset(&term, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &term, nullptr);
  UniqueFd signals(::signalfd(-1, &term, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return fail_errno("signalfd", "of the keeper");
  std::unique_ptr<Engine> engine = RELIVE_TRY(Engine::open(key.pid));
  if (standing(key) == Standing::gone)
    return fail(ErrorKind::task_died, fmt::format("task {} has ended", key.pid.value));
  UniqueFd listener = RELIVE_TRY(registry.listen(key));
  return Keeper{std::move(registry), std::move(listener), std::move(signals), std::move(engine), {}, {}};
}

constexpr int kLingeringMs = 20;     // between looks at threads that have not stopped yet (task/frozen_task.h)
constexpr int kPatienceMs = 10'000;  // for the first request, whose command may have been killed

// Returns why the keeper ends.
Error keep(Keeper& keeper, const TaskKey& key) {
  const std::string task = fmt::format("task {}", key.pid.value);
  for (;;) {
    std::vector<pollfd> watched = {
        {keeper.engine->pidfd(), POLLIN, 0}, {keeper.signals.get(), POLLIN, 0}, {keeper.listener.get(), POLLIN, 0}};
    for (const UniqueFd& connection : keeper.silent) watched.push_back({connection.get(), POLLIN, 0});
    const std::size_t clients = keeper.silent.size();
    for (const ImageWriter& writer : keeper.writers) watched.push_back({writer.pidfd.get(), POLLIN, 0});
    const bool empty = keeper.engine->list().empty();
    Error no_snapshots{ErrorKind::not_found,
                       task + " has no snapshots",
                       0,
                       fmt::format("relive snapshot {} takes one", key.pid.value),
                       {}};
    const bool lingering = task::release_lingering() != 0;
    const int ready = ::poll(watched.data(), watched.size(), lingering ? kLingeringMs : empty ? kPatienceMs : -1);
    if (ready == 0 && lingering) continue;
    if (ready < 0 && errno != EINTR) return Error{ErrorKind::system, "poll", errno, {}, {}};
    if (ready == 0) return no_snapshots;
    if (watched[0].revents != 0)
      return Error{ErrorKind::task_died, task + " has ended; its snapshots went with it", 0, {}, {}};
    if (watched[1].revents != 0) {
      if (const auto cured = keeper.engine->drop_all(); !cured) log_warning("keeper: " + cured.error().text());
      return Error{
          ErrorKind::not_found, "the keeper of " + task + " was told to end; its snapshots are dropped", 0, {}, {}};
    }
    bool changed = false;
    reap(keeper.writers, *keeper.engine);
    for (std::size_t i = 0; i < clients; ++i)
      if (watched[3 + i].revents != 0 &&
          attend(std::move(keeper.silent[i]), key, keeper.registry, *keeper.engine, keeper.writers))
        changed = true;
    std::erase_if(keeper.silent, [](const UniqueFd& connection) { return !connection; });
    if (changed && keeper.engine->list().empty()) return no_snapshots;
    if (watched[2].revents != 0) take_in(accept_one(keeper), keeper.silent);
  }
}

}  // namespace

Result<Answer> serve(Engine& engine, const Request& request) {
  arm_faults(RELIVE_TRY(FaultPlan::parse(request.fault)));
  auto answer = std::visit(Serve{engine}, request.command);
  arm_faults({});
  return answer;
}

int run_keeper(const TaskKey& key, UniqueFd handshake) {
  auto keeper = begin(key);
  const auto told = send_frame(handshake.get(), keeper ? std::string{} : encode(keeper.error()));
  handshake.reset();
  if (!keeper) return 1;
  if (!told) log_warning("keeper: nobody waits for it");
  const Error reason = keep(*keeper, key);
  // The stores go with the engine, but for one that a broken way back has left: that one is still to be found.
  keeper->engine.reset();
  const auto files = keeper->registry.files_of(key);
  if (std::ranges::none_of(files,
                           [](const auto& one) { return files::Directory::has_journal(one.directory, one.store); }))
    keeper->registry.forget_files(key);
  keeper->registry.forget(key);
  turn_away(*keeper, reason);
  return 0;
}

}  // namespace relive::rollback
