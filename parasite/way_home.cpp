#include "parasite/way_home.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "parasite/arena.h"
#include "parasite/frame.h"
#include "parasite/remote_syscall.h"

namespace relive::parasite {

namespace {

constexpr std::uint64_t kRedZone = 128;
constexpr std::uint64_t kRoom = 16 << 10;  // a frame with AVX-512 state takes 3 KiB

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
    if (line.permissions.size() < 3 || line.permissions[2] != 'x' || line.line.ends_with("]")) continue;
    search(task, line.range, out);
  }
  return out;
}

bool on_kernel_made_stack(std::string_view maps_text, AddressRange room) {
  std::size_t at = 0;
  for (MapsLine line; next_line(maps_text, at, line);) {
    if (line.line.ends_with("[stack]")) return line.range.begin <= room.begin && room.end <= line.range.end;
  }
  return false;
}

}  // namespace

std::optional<WayHome> lay_way_home(const task::FrozenTask& task, const task::FrozenThread& thread,
                                    std::string_view maps_text) {
  const std::uint64_t begin = (thread.registers.rsp - kRedZone - kRoom) & ~std::uint64_t{63};
  if (!on_kernel_made_stack(maps_text, {begin, thread.registers.rsp})) return std::nullopt;
  const Instructions instructions = find_instructions(task, maps_text);
  const auto xstate = task.xstate(thread.tid);
  if (!instructions.complete() || !xstate) return std::nullopt;

  // Laid out here as in an arena that lies in the task's stack.
  void* here =
      ::mmap(nullptr, Arena::kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (here == MAP_FAILED) return std::nullopt;
  Arena layout(UniqueFd{}, static_cast<std::byte*>(here), model::TaskAddress{begin});
  const auto frame = put_frame(
      layout,
      {.registers = reissue_system_call(thread.registers), .xstate = *xstate, .signal_mask = thread.signal_mask});
  const auto end = layout.take(0);
  if (!frame || !end || end->there.value > begin + kRoom) return std::nullopt;

  // `ret` leaves the stack pointer at the frame, where rt_sigreturn(2) looks for it.
  std::byte* slot = layout.local(*frame) - sizeof(std::uint64_t);
  constexpr std::array<std::byte, sizeof(std::uint64_t)> kFree{};
  if (std::memcmp(slot, kFree.data(), sizeof kFree) != 0) return std::nullopt;
  std::memcpy(slot, &instructions.restorer, sizeof instructions.restorer);
  const std::span<const std::byte> bytes(static_cast<const std::byte*>(here), end->there.value - begin);
  if (!task.write(model::TaskAddress{begin}, bytes)) return std::nullopt;
  return WayHome{.instruction = {instructions.call}, .stack_pointer = frame->value - sizeof(std::uint64_t)};
}

}  // namespace relive::parasite
