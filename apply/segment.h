// System V shared memory (shmget(2)) that a task attaches to again.
#pragma once

#include <cstdint>
#include <utility>

#include "base/result.h"
#include "model/ids.h"
#include "model/memory.h"

namespace relive::apply {

// A segment that is to be attached. One that was made anew is marked for destruction when this goes: it then lives as
// long as it is attached.
class Segment {
 public:
  Segment(int id, std::uint64_t size, bool fresh) : id_(id), size_(size), fresh_(fresh) {}
  Segment(Segment&& other) noexcept : id_(other.id_), size_(other.size_), fresh_(std::exchange(other.fresh_, false)) {}
  Segment& operator=(Segment&&) = delete;
  ~Segment();
  [[nodiscard]] int id() const { return id_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }  // whole pages
  [[nodiscard]] bool is_new() const { return fresh_; }

 private:
  int id_;
  std::uint64_t size_;
  bool fresh_;
};

// The segment that `mapping` was of: its inode is the segment's id, its name tells the key (ipc/shm.c). One that is
// gone is made again under its id, with `size` bytes, for the user of `task` (/proc/sys/kernel/shm_next_id, Linux 3.9
// with CONFIG_CHECKPOINT_RESTORE, as root). Errors: refused, where another one has its id or its key, or it may not be
// made again.
Result<Segment> find_or_make_segment(const model::Mapping& mapping, std::uint64_t size, model::Pid task);

}  // namespace relive::apply
