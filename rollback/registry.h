// Where keepers are found: a directory of sockets and lock files, one pair per task.
//
//     PID-STARTTIME.sock   the keeper listens here
//     PID-STARTTIME.files  directories whose files go back with the task, for whoever finishes what a keeper could not
//     PID-STARTTIME.lock   held (flock) by the one command that changes the task's snapshots or the task
//
// The directory is $RELIVE_RUNTIME_DIR if set (for tests); else /run/relive for root, $XDG_RUNTIME_DIR/relive for
// others, and /tmp/relive-UID where there is none. It must be its user's own, mode 0700: whoever can write into it
// could pose as a keeper.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "model/ids.h"

namespace relive::rollback {

// A task, told apart from a later one with the same pid.
struct TaskKey {
  model::Pid pid;
  std::uint64_t start_time = 0;  // clock ticks since boot
  auto operator<=>(const TaskKey&) const = default;
  // "PID-STARTTIME", and back.
  [[nodiscard]] std::string stem() const;
  static std::optional<TaskKey> parse(std::string_view stem);
};

// Who has this pid now. Errors: not_found; refused (the id of a thread that is not its task's leader, a zombie).
Result<TaskKey> identify(model::Pid pid);

// What became of a task; looks, never stops it.
enum class Standing : std::uint8_t { runs, stopped, traced, zombie, gone };
Standing standing(const TaskKey& key);

// One command at a time may change a task. Gives the lock back when it goes; so does the kernel if the command is
// killed.
class CommandLock {
 public:
  CommandLock(CommandLock&&) noexcept = default;
  CommandLock& operator=(CommandLock&&) = delete;
  ~CommandLock();

 private:
  friend class Registry;
  CommandLock(UniqueFd file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}
  UniqueFd file_;
  std::string path_;
};

class Registry {
 public:
  // Makes the directory if need be. Errors: refused (not ours alone), system.
  static Result<Registry> open();

  // A connection to the task's keeper. Errors: not_found in both cases where there is none: never was (`gone` unset),
  // or died (its stale files are removed on the way).
  [[nodiscard]] Result<UniqueFd> connect(const TaskKey& key) const;
  // Is there a socket, dead or alive?
  [[nodiscard]] bool knows(const TaskKey& key) const;
  // The keeper's side. Takes the place of a stale socket.
  [[nodiscard]] Result<UniqueFd> listen(const TaskKey& key) const;
  // Removes the task's socket, and its lock file unless a command holds it.
  void forget(const TaskKey& key) const;
  // Directories of files that go back with the task, and where their copies lie; stays when the keeper dies.
  struct FilesOf {
    std::string directory;
    std::string store;
    bool operator==(const FilesOf&) const = default;
  };
  [[nodiscard]] Result<void> note_files(const TaskKey& key, const std::vector<FilesOf>& files) const;
  [[nodiscard]] std::vector<FilesOf> files_of(const TaskKey& key) const;
  void forget_files(const TaskKey& key) const;
  // Everybody who has a socket here, by pid.
  [[nodiscard]] std::vector<TaskKey> keepers() const;
  // Errors: busy, naming the pid of the command that holds it. `command` is what others are told about us.
  [[nodiscard]] Result<CommandLock> lock(const TaskKey& key, std::string_view command) const;

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  Registry(UniqueFd directory, std::string path) : directory_(std::move(directory)), path_(std::move(path)) {}
  // A path to `name` that is short enough for a socket address, whatever the directory is called.
  [[nodiscard]] std::string short_path(std::string_view name) const;
  UniqueFd directory_;
  std::string path_;
};

}  // namespace relive::rollback
