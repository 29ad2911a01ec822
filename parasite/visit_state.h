// What the files of a visit share. Internal: visit.cpp (programs that run, and are undone), visit_descriptors.cpp,
// visit_births.cpp (threads and tasks that are made), visit_commit.cpp.
#pragma once

#include <csignal>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "parasite/descriptor_numbers.h"
#include "parasite/session.h"

namespace relive::parasite {

inline constexpr std::size_t kThreadStack = 8 << 10;

// A thread's room in the arena: its block, and the stack of the parasite's code there.
struct ThreadRoom {
  ArenaPiece piece;
  std::uint64_t stack_top = 0;
  [[nodiscard]] wire::ThreadBlock& value() const { return *reinterpret_cast<wire::ThreadBlock*>(piece.here); }
};
Result<ThreadRoom> make_room(Arena& arena, model::Tid tid, std::size_t stack_bytes, model::TaskAddress frame);

// The frame from which a thread that stands goes on as if nothing had been.
Result<model::TaskAddress> original_frame(task::FrozenTask& task, Arena& arena, const task::FrozenThread& thread);
// Registers that enter the parasite at `entry`, for the thread that has this room.
user_regs_struct enter(const user_regs_struct& base, model::TaskAddress entry, const Arena& arena,
                       const ThreadRoom& room);

Result<void> put_program(Arena& arena, const Program& program, wire::Program& into);
// Copies results back; an operation that had to succeed and did not is an error that names it.
Result<void> take_results(Arena& arena, const wire::Program& ran, Program& program, std::string_view where);

constexpr std::uint64_t bit_of(int signal) { return 1ULL << (signal - 1); }

struct Visit::State {
  model::TaskAddress code;
  std::map<model::Tid, ThreadRoom> blocks;  // of the driver, of threads made here, and (from commit on) of all
  ArenaPiece undo_operations;
  std::vector<std::string> undo_names;
  bool trap_taken = false;
  bool holds = false;  // the task was led into the parasite by hold()
  bool committed = false;
  bool broken = false;
  bool departed = false;
  bool forking = false;

  std::vector<AddressRange> avoid;
  std::uint64_t spare_next = 0, spare_end = 0;

  std::shared_ptr<DescriptorNumbers> numbers = std::make_shared<DescriptorNumbers>();
  int descriptor_limit = 0;  // 0: not read yet

  UniqueFd channel;                      // our end of the socket pair
  int remote_channel = -1;               // the task's end
  std::vector<model::RemoteFd> handles;  // in the task, of children that relive has made there
};

}  // namespace relive::parasite
