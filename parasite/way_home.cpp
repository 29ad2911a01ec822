#include "parasite/way_home.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <vector>

#include <fmt/format.h>

#include "base/page_range.h"
#include "parasite/arena.h"
#include "parasite/frame.h"
#include "parasite/remains.h"
#include "parasite/remote_syscall.h"
#include "task/procfs.h"

namespace relive::parasite {

namespace {

constexpr std::uint64_t kRedZone = 128;
constexpr std::uint64_t kRoom = 16 << 10;  // a frame with AVX-512 state takes 3 KiB

constexpr std::array kSyscall{std::byte{0x0f}, std::byte{0x05}};
constexpr std::array kCall{std::byte{0x0f}, std::byte{0x05}, std::byte{0xc3}};
constexpr std::array kRestorer{std::byte{0x48}, std::byte{0xc7}, std::byte{0xc0}, std::byte{0x0f}, std::byte{0x00},
                               std::byte{0x00}, std::byte{0x00}, std::byte{0x0f}, std::byte{0x05}};
constexpr std::array kShortRestorer{std::byte{0xb8}, std::byte{0x0f}, std::byte{0x00}, std::byte{0x00},
                                    std::byte{0x00}, std::byte{0x0f}, std::byte{0x05}};

struct Instructions {
  std::uint64_t call = 0;
  std::uint64_t restorer = 0;
  [[nodiscard]] bool complete() const { return call != 0 && restorer != 0; }
};

template <class Pattern>
void look_for(const std::vector<std::byte>& code, std::uint64_t begin, const Pattern& pattern, std::uint64_t& found) {
  if (found != 0) return;
  const auto at = std::search(code.begin(), code.end(), pattern.begin(), pattern.end());
  if (at != code.end()) found = begin + static_cast<std::uint64_t>(at - code.begin());
}

// A piece at a time, since looking at a page makes it the task's.
void search(const task::FrozenTask& task, AddressRange range, Instructions& out) {
  constexpr std::uint64_t kPiece = 64 << 10;
  constexpr std::uint64_t kOverlap = 16;  // an instruction may lie across two pieces
  for (std::uint64_t at = range.begin; at < range.end && !out.complete(); at += kPiece) {
    std::vector<std::byte> code(std::min(kPiece + kOverlap, range.end - at));
    if (!task.read(model::TaskAddress{at}, code)) return;
    look_for(code, at, kCall, out.call);
    look_for(code, at, kRestorer, out.restorer);
    look_for(code, at, kShortRestorer, out.restorer);
  }
}

Instructions find_instructions(const task::FrozenTask& task, std::string_view maps_text) {
  Instructions out;
  std::size_t at = 0;
  for (MapsLine line; !out.complete() && next_line(maps_text, at, line);) {
    // A file's: code that the program makes as it goes may be gone the next moment, and so may another keeper's.
    const bool of_file = line.line.find('/') != std::string_view::npos;
    if (line.permissions.size() < 3 || line.permissions[2] != 'x' || !of_file) continue;
    if (line.line.find(kParasiteName) != std::string_view::npos) continue;
    search(task, line.range, out);
  }
  return out;
}

std::uint64_t find_system_call(const task::FrozenTask& task, std::string_view maps_text) {
  std::uint64_t found = 0;
  for (const bool kernels : {true, false}) {
    std::size_t at = 0;
    for (MapsLine line; found == 0 && next_line(maps_text, at, line);) {
      if (line.permissions.size() < 3 || line.permissions[2] != 'x' || line.line.ends_with("[vdso]") != kernels)
        continue;
      std::vector<std::byte> code(line.range.size());
      if (task.read(model::TaskAddress{line.range.begin}, code)) look_for(code, line.range.begin, kSyscall, found);
    }
  }
  return found;
}

AddressRange find_stack(std::string_view maps_text) {
  std::size_t at = 0;
  for (MapsLine line; next_line(maps_text, at, line);)
    if (line.line.ends_with("[stack]")) return line.range;
  return {};
}

// Has nobody ever written to these pages? Bits 63 and 62 of /proc/PID/pagemap: present, swapped out.
bool untouched(const task::FrozenTask& task, AddressRange range) {
  const auto pagemap = task::open_proc(task.pid(), "pagemap", O_RDONLY);
  std::vector<std::uint64_t> entries(range.pages());
  const auto bytes = static_cast<ssize_t>(entries.size() * sizeof(std::uint64_t));
  const auto offset = static_cast<off_t>(range.begin / kPageSize * sizeof(std::uint64_t));
  if (!pagemap || ::pread(pagemap->get(), entries.data(), static_cast<std::size_t>(bytes), offset) != bytes)
    return false;
  return std::ranges::all_of(entries, [](std::uint64_t entry) { return entry >> 62 == 0; });
}

// Where the frame may lie, the best first. What lies below the mapping becomes part of it when it is written to
// (expand_stack(), also from outside: access_remote_vm() in mm/memory.c).
std::vector<std::uint64_t> places(const task::FrozenTask& task, const task::FrozenThread& thread, AddressRange stack) {
  const std::uint64_t own = thread.registers.rsp;
  if (stack.contains(own)) return {(own - kRedZone - kRoom) & ~std::uint64_t{63}};
  std::vector<std::uint64_t> out;
  if (stack.size() >= kRoom && untouched(task, {stack.begin, stack.begin + kRoom})) out.push_back(stack.begin);
  out.push_back(stack.begin - kRoom);
  return out;
}

// What is written at `begin`.
struct Layout {
  std::vector<std::byte> bytes;
  WayHome home;
};

// As in an arena that lies in the task's stack.
Result<Layout> lay_out(std::uint64_t begin, const Instructions& instructions, const FrameContents& contents,
                       std::string_view word) {
  void* here =
      ::mmap(nullptr, Arena::kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (here == MAP_FAILED) return fail_errno("mmap", "a signal frame");
  Arena arena(UniqueFd{}, static_cast<std::byte*>(here), model::TaskAddress{begin});
  Layout out;
  out.home.word = RELIVE_TRY(arena.put(std::as_bytes(std::span(word))));
  const model::TaskAddress frame = RELIVE_TRY(put_frame(arena, contents));
  const auto end = RELIVE_TRY(arena.take(0)).there;
  // `ret` leaves the stack pointer at the frame, where rt_sigreturn(2) looks for it. Pieces of an arena have room
  // between them.
  std::byte* slot = arena.local(frame) - sizeof instructions.restorer;
  constexpr std::array<std::byte, sizeof instructions.restorer> kFree{};
  if (end.value > begin + kRoom || std::memcmp(slot, kFree.data(), sizeof kFree) != 0)
    return fail(ErrorKind::refused, "a signal frame of this processor takes too much room");
  std::memcpy(slot, &instructions.restorer, sizeof instructions.restorer);
  out.home.instruction = {instructions.call};
  out.home.stack_pointer = frame.value - sizeof instructions.restorer;
  const auto* bytes = static_cast<const std::byte*>(here);
  out.bytes.assign(bytes, bytes + (end.value - begin));
  return out;
}

}  // namespace

Result<WayHome> lay_way_home(const task::FrozenTask& task, const task::FrozenThread& thread, std::string_view maps_text,
                             std::string_view word) {
  Instructions instructions;
  if (task.blank())
    instructions.call = instructions.restorer = find_system_call(task, maps_text);
  else
    instructions = find_instructions(task, maps_text);
  if (!instructions.complete())
    return fail(ErrorKind::refused,
                fmt::format("task {} has none of the instructions that would bring it home if relive were killed",
                            task.pid().value),
                "a program with a C library, or of Go, has them");
  const AddressRange stack = find_stack(maps_text);
  if (stack.empty())
    return fail(ErrorKind::refused, fmt::format("task {} has unmapped its first stack", task.pid().value));
  const auto xstate = RELIVE_TRY(task.xstate(thread.tid));
  const FrameContents contents{
      .registers = reissue_system_call(thread.registers), .xstate = xstate, .signal_mask = thread.signal_mask};
  Result<void> written;
  for (const std::uint64_t begin : places(task, thread, stack)) {
    const Layout layout = RELIVE_TRY(lay_out(begin, instructions, contents, word));
    written = task.write(model::TaskAddress{begin}, layout.bytes);
    if (written) return layout.home;
  }
  return with_context<WayHome>(std::unexpected(std::move(written).error()), "no room is left on the task's stack");
}

}  // namespace relive::parasite
