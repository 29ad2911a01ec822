#include "client/session.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "client/start_keeper.h"
#include "rollback/kept_files.h"

namespace relive::client {

namespace {
constexpr int kKeepersAsked = 10;
}  // namespace

Result<rollback::TaskKey> task_of(model::Pid pid) {
  if (pid.value <= 0)
    return fail(ErrorKind::usage, fmt::format("{} is not a process id", pid.value),
                "it is a positive number, as ps(1) shows it");
  if (pid.value == ::getpid())
    return fail(ErrorKind::refused, fmt::format("{} is the process that asks", pid.value), "name another task");
  return rollback::identify(pid);
}

Result<std::string> snapshot_name(std::string_view name) {
  constexpr std::size_t kLongest = 64;
  const bool bad = name.empty() || name.size() > kLongest || name.front() == '-' ||
                   std::ranges::any_of(name, [](unsigned char c) { return c <= ' ' || c == '/' || c == 0x7f; });
  if (bad)
    return fail(ErrorKind::usage, fmt::format("'{}' cannot be a snapshot's name", name),
                "a name has 1 to 64 characters, no blanks, no '/', and does not begin with '-'");
  return std::string(name);
}

Result<std::string> real_directory(std::string_view what, const std::string& path) {
  std::error_code error;
  const auto whole = std::filesystem::canonical(path, error);
  if (error || !std::filesystem::is_directory(whole, error))
    return fail(ErrorKind::usage, fmt::format("{} {}: no such directory", what, path));
  return whole.string();
}

Result<Session> Session::begin(Caller caller, const rollback::TaskKey& key) {
  auto registry = RELIVE_TRY(rollback::Registry::open());
  auto lock = RELIVE_TRY(registry.lock(key, caller.name));
  return Session(std::move(caller), key, std::move(registry), std::move(lock));
}

Result<void> Session::ensure_keeper() {
  const bool known = registry_.knows(key_);
  const auto connection = registry_.connect(key_);
  if (connection) return {};
  if (connection.error().kind != ErrorKind::not_found) return std::unexpected(connection.error());
  if (known) caller_.tell(connection.error().what);
  if (const std::string finished = RELIVE_TRY(rollback::finish_files(registry_, key_)); !finished.empty())
    caller_.tell(finished);
  return start_keeper(key_, RELIVE_TRY(caller_.keeper_program()));
}

Result<rollback::SnapshotReport> Session::snapshot(const rollback::SnapshotOptions& options) {
  RELIVE_TRY(ensure_keeper());
  return ask_for<rollback::SnapshotReport>(registry_, request(key_, options), caller_.patience_ms);
}

Result<rollback::ImageReport> Session::write_image(
    const std::string& name, const std::string& directory,
    const std::function<void(const rollback::ImageProgress&)>& progress) {
  return ask_for_image(registry_, request(key_, rollback::ImageOptions{name, directory}), progress);
}

Result<rollback::RollbackReport> Session::go_back(const rollback::RollbackOptions& options) {
  if (options.image.empty()) {
    if (auto connection = registry_.connect(key_); !connection) {  // it is told once that a keeper has died
      if (const std::string finished = RELIVE_TRY(rollback::finish_files(registry_, key_)); !finished.empty())
        return fail(ErrorKind::not_found, finished, "its snapshots went with the keeper");
      return std::unexpected(std::move(connection).error());
    }
    return ask_for<rollback::RollbackReport>(registry_, request(key_, options), caller_.patience_ms);
  }
  // A keeper with nothing to keep any more may be just ending: it says so, and the next one is asked.
  for (int attempt = 1;; ++attempt) {
    RELIVE_TRY(ensure_keeper());
    auto report = ask_for<rollback::RollbackReport>(registry_, request(key_, options), caller_.patience_ms);
    if (report || report.error().kind != ErrorKind::not_found || attempt == kKeepersAsked) return report;
  }
}

Result<rollback::DropReport> Session::drop(const rollback::DropOptions& options) {
  return ask_for<rollback::DropReport>(registry_, request(key_, options), caller_.patience_ms);
}

}  // namespace relive::client
