// Shared anonymous memory of which every writer is known: a rollback compares no more than what was written.
//
// Each task notes the writes that go through its own mappings (tracking/tracker.h). That these are all there are is
// proven for each stretch between two stops of the tree, or else all of it is compared:
// - the tree has the same tasks, none of which has executed another program, and no more zombies;
// - none was born and has ended: a child that its parent has waited for leaves its page faults with it (cminflt,
//   proc_pid_stat(5)), and one that has written to this memory has had some. A parent that lets its children go without
//   waiting (SIGCHLD ignored, SA_NOCLDWAIT) proves nothing;
// - each task maps the memory as it did;
// - no page was cut out of the object (MADV_REMOVE): the keeper maps the object itself, and loses such a page, too;
// - nobody outside the tree has it mapped: looked for in all of /proc when the watch begins, and again behind every
//   stretch that was not proven. Anonymous memory is inherited; there is no name to open it by.
// What is not seen stands in docs/decisions/0006-shared-memory-is-watched.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "model/memory.h"
#include "model/task.h"
#include "rollback/stay.h"
#include "task/frozen_tree.h"
#include "tracking/page_map.h"
#include "tracking/pagemap.h"

namespace relive::rollback {

class SharedWatch {
 public:
  // The contents of all memory are known, by the members' maps of what is in place: from now on writes are noted. Tasks
  // at rest go on being watched. Where anything of it fails, nothing is watched. REQUIRES: `tasks` are the whole tree,
  // which stands, and all trackers are armed.
  void begin(Stay& stay, std::span<const model::Task> tasks, const Members& members);
  // What is in place is not known any more.
  void end();

  // By task: parts of its memory that nobody has written since begin(). Empty where that cannot be proven. `tasks`:
  // those of the tree as they are now, of which some may be missing.
  using Sound = std::map<model::Pid, tracking::Ranges>;
  [[nodiscard]] Sound sound(Stay& stay, std::span<const std::optional<model::Task>> tasks);

 private:
  // The keeper's own mapping of an object.
  class Window {
   public:
    static std::optional<Window> open(model::Pid pid, const model::Mapping& mapping);
    Window(Window&& other) noexcept
        : file_(std::move(other.file_)),
          here_(std::exchange(other.here_, nullptr)),
          bytes_(other.bytes_),
          seen_(std::move(other.seen_)) {}
    Window& operator=(Window&&) = delete;
    ~Window();
    // What has data now, or `only` that, is present here from now on.
    bool see();
    bool see(const tracking::Ranges& only);
    // Of what was seen: what is not present any more. Nothing: it cannot be told.
    [[nodiscard]] std::optional<tracking::Ranges> lost(const tracking::Pagemap& own) const;

   private:
    Window(UniqueFd file, std::byte* here, std::uint64_t bytes) : file_(std::move(file)), here_(here), bytes_(bytes) {}
    UniqueFd file_;
    std::byte* here_ = nullptr;
    std::uint64_t bytes_ = 0;
    tracking::Ranges seen_;  // bytes of the object
  };
  struct Watched {
    std::uint64_t start_time = 0;
    std::uint64_t faults_of_children = 0;
    std::string maps;  // the lines of these mappings
    std::vector<model::Mapping> mappings;
  };
  [[nodiscard]] std::string_view why_not(Stay& stay, std::span<const std::optional<model::Task>> tasks) const;
  [[nodiscard]] std::string_view watch(Stay& stay, std::span<const model::Task> tasks, const Members& members);
  bool open_windows(const Watched& watched, model::Pid pid);

  std::map<std::string, Window> windows_;            // by object
  std::map<std::string, tracking::Ranges> written_;  // in the last stretch: bytes of each object
  std::optional<tracking::Pagemap> own_;
  std::map<model::Pid, Watched> tasks_;
  std::vector<task::Zombie> zombies_;
  bool valid_ = false;
  bool proven_ = false;  // the last stretch was: nobody new can have it mapped
};

}  // namespace relive::rollback
