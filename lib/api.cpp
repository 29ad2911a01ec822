// The functions of relive.h: arguments checked, the client asked, its answer as structures. No exception leaves them.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>

#include "base/clock.h"
#include "client/report_json.h"
#include "client/session.h"
#include "lib/program.h"
#include "lib/relive.h"
#include "lib/reports.h"
#include "rollback/protocol.h"

struct relive_process {
  relive::rollback::TaskKey key;
  int patience_ms = relive::client::kForEver;
  std::string caller;
  std::mutex one_at_a_time;
};

namespace relive::lib {

namespace {

using Outcome = std::expected<void, Problem>;

std::unexpected<Problem> problem(Error error) {
  const relive_code code = code_of(error);
  return std::unexpected(Problem{code, std::move(error)});
}

template <class T>
std::expected<T, Problem> told(Result<T> result) {
  if (!result) return problem(std::move(result).error());
  return *std::move(result);
}

// Carries `act` out. Without memory there is a code and no error.
template <class Act>
relive_code guarded(relive_error** error, const Act& act) noexcept {
  if (error != nullptr) *error = nullptr;
  try {
    const Outcome outcome = act();
    if (outcome) return RELIVE_OK;
    if (error != nullptr) *error = make(outcome.error());
    return outcome.error().code;
  } catch (const std::exception& thrown) {
    try {
      if (error != nullptr) *error = make(Problem{RELIVE_SYSTEM, Error{ErrorKind::system, thrown.what(), 0, {}, {}}});
    } catch (...) {
      *error = nullptr;
    }
    return RELIVE_SYSTEM;
  }
}

// The caller's options, of whatever release its header is: what they do not have is 0.
template <class Options>
std::expected<Options, Problem> options_of(const Options* given) {
  Options options{};
  if (given == nullptr) return options;
  if (given->size < sizeof options.size || given->size > sizeof options)
    return problem(Error{ErrorKind::usage,
                         fmt::format("options of {} bytes", given->size),
                         0,
                         "set their size to that of the structure in the header of this release",
                         {}});
  std::memcpy(&options, given, given->size);
  return options;
}

std::unexpected<Problem> missing(std::string_view what) {
  return problem(Error{ErrorKind::usage, fmt::format("{} is NULL", what), 0, {}, {}});
}

std::expected<client::Session, Problem> begin(relive_process& process, std::vector<std::string>& notes) {
  return told(client::Session::begin({.name = process.caller,
                                      .keeper_program = find_program,
                                      .tell = [&notes](const std::string& text) { notes.push_back(text); },
                                      .patience_ms = process.patience_ms},
                                     process.key));
}

Result<rollback::SnapshotOptions> wanted(const relive_snapshot_options& given) {
  rollback::SnapshotOptions options;
  if (given.name != nullptr) options.name = RELIVE_TRY(client::snapshot_name(given.name));
  options.replace = given.replace != 0;
  options.take_events = given.take_events != 0;
  if (given.tracker != nullptr) options.tracker = RELIVE_TRY(tracking::parse_tracker(given.tracker));
  for (std::size_t i = 0; i < given.directory_count; ++i)
    options.files.directories.push_back(RELIVE_TRY(client::real_directory("directories", given.directories[i])));
  if (given.store != nullptr) options.files.store = RELIVE_TRY(client::real_directory("store", given.store));
  return options;
}

Result<rollback::RollbackOptions> wanted(const char* snapshot, const relive_rollback_options& given) {
  rollback::RollbackOptions options;
  if (std::strchr(snapshot, '/') != nullptr)
    options.image = RELIVE_TRY(client::real_directory("image", snapshot));
  else
    options.name = RELIVE_TRY(client::snapshot_name(snapshot));
  options.dry_run = given.dry_run != 0;
  options.on_failure = given.kill_on_failure != 0 ? rollback::OnFailure::kill : rollback::OnFailure::stop;
  return options;
}

template <class Report>
std::expected<Report, Problem> look(const relive_process& process, decltype(rollback::Request::command) command) {
  auto registry = rollback::Registry::open();
  if (!registry) return problem(std::move(registry).error());
  return told(
      client::ask_for<Report>(*registry, client::request(process.key, std::move(command)), process.patience_ms));
}

}  // namespace

}  // namespace relive::lib

using namespace relive;
using namespace relive::lib;

const char* relive_version() { return RELIVE_VERSION; }

const char* relive_code_name(relive_code code) {
  switch (code) {
    case RELIVE_OK:
      return "ok";
    case RELIVE_TIMEOUT:
      return "timeout";
    case RELIVE_STOPPED:
      return "stopped";
    case RELIVE_KILLED:
      return "killed";
    default:  // an error's kind (reports.cpp)
      return client::kind_name(static_cast<ErrorKind>(code - RELIVE_USAGE)).data();
  }
}

relive_code relive_adopt(pid_t pid, const relive_adopt_options* options, relive_process** process,
                         relive_error** error) {
  return guarded(error, [&] -> Outcome {
    if (process == nullptr) return missing("process");
    *process = nullptr;
    const auto given = options_of(options);
    if (!given) return std::unexpected(given.error());
    const auto key = told(client::task_of({pid}));
    if (!key) return std::unexpected(key.error());
    auto made = std::make_unique<relive_process>();
    made->key = *key;
    if (given->timeout_ms > 0) made->patience_ms = given->timeout_ms;
    made->caller = given->caller != nullptr ? given->caller : "librelive";
    *process = made.release();
    return {};
  });
}

void relive_release(relive_process* process) { delete process; }

pid_t relive_pid(const relive_process* process) { return process != nullptr ? process->key.pid.value : 0; }

relive_code relive_snapshot(relive_process* process, const relive_snapshot_options* options,
                            relive_snapshot_report** report, relive_error** error) {
  return guarded(error, [&] -> Outcome {
    if (report != nullptr) *report = nullptr;
    if (process == nullptr) return missing("process");
    const auto given = options_of(options);
    if (!given) return std::unexpected(given.error());
    const auto asked = told(wanted(*given));
    if (!asked) return std::unexpected(asked.error());
    const std::scoped_lock one(process->one_at_a_time);
    const std::uint64_t began = now_ns();
    std::vector<std::string> notes;
    auto session = begin(*process, notes);
    if (!session) return std::unexpected(session.error());
    const auto answer = told(session->snapshot(*asked));
    if (!answer) return std::unexpected(answer.error());
    if (report != nullptr) *report = make(*answer, (now_ns() - began) / 1000, notes);
    return {};
  });
}

relive_code relive_rollback(relive_process* process, const char* snapshot, const relive_rollback_options* options,
                            relive_rollback_report** report, relive_error** error) {
  return guarded(error, [&] -> Outcome {
    if (report != nullptr) *report = nullptr;
    if (process == nullptr) return missing("process");
    if (snapshot == nullptr) return missing("snapshot");
    const auto given = options_of(options);
    if (!given) return std::unexpected(given.error());
    const auto asked = told(wanted(snapshot, *given));
    if (!asked) return std::unexpected(asked.error());
    const std::scoped_lock one(process->one_at_a_time);
    const std::uint64_t began = now_ns();
    std::vector<std::string> notes;
    auto session = begin(*process, notes);
    if (!session) return std::unexpected(session.error());
    auto answer = told(session->go_back(*asked));
    if (!answer) return std::unexpected(answer.error());
    answer->notes.insert(answer->notes.begin(), notes.begin(), notes.end());
    const int pid = process->key.pid.value;
    if (report != nullptr) *report = make(*answer, snapshot, pid, asked->dry_run, (now_ns() - began) / 1000);
    if (auto failed = problem_of(*answer, snapshot, pid, asked->dry_run)) return std::unexpected(*std::move(failed));
    return {};
  });
}

relive_code relive_diff(relive_process* process, const char* snapshot, relive_diff_report** report,
                        relive_error** error) {
  return guarded(error, [&] -> Outcome {
    if (report == nullptr) return missing("report");
    *report = nullptr;
    if (process == nullptr) return missing("process");
    if (snapshot == nullptr) return missing("snapshot");
    const auto name = told(client::snapshot_name(snapshot));
    if (!name) return std::unexpected(name.error());
    const std::scoped_lock one(process->one_at_a_time);
    const auto answer = look<rollback::DiffReport>(*process, rollback::DiffOptions{*name});
    if (!answer) return std::unexpected(answer.error());
    *report = make(*answer, *name, process->key.pid.value);
    return {};
  });
}

relive_code relive_list(relive_process* process, relive_list_report** report, relive_error** error) {
  return guarded(error, [&] -> Outcome {
    if (report == nullptr) return missing("report");
    *report = nullptr;
    if (process == nullptr) return missing("process");
    const std::scoped_lock one(process->one_at_a_time);
    auto answer = look<rollback::ListReport>(*process, rollback::ListOptions{});
    if (!answer && answer.error().code != RELIVE_NOT_FOUND) return std::unexpected(answer.error());
    *report = make(answer ? *answer : rollback::ListReport{});
    return {};
  });
}

relive_code relive_drop(relive_process* process, const char* snapshot, relive_error** error) {
  return guarded(error, [&] -> Outcome {
    if (process == nullptr) return missing("process");
    rollback::DropOptions options{.name = {}, .all = snapshot == nullptr};
    if (snapshot != nullptr) {
      auto name = told(client::snapshot_name(snapshot));
      if (!name) return std::unexpected(name.error());
      options.name = *std::move(name);
    }
    const std::scoped_lock one(process->one_at_a_time);
    std::vector<std::string> notes;
    auto session = begin(*process, notes);
    if (!session) return std::unexpected(session.error());
    const auto answer = told(session->drop(options));
    if (!answer && !(options.all && answer.error().code == RELIVE_NOT_FOUND)) return std::unexpected(answer.error());
    return {};
  });
}
