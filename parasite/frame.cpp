#include "parasite/frame.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace relive::parasite {

namespace {

struct SigContext {  // struct sigcontext_64
  std::uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
  std::uint64_t rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
  std::uint16_t cs, gs, fs, ss;
  std::uint64_t err, trapno, oldmask, cr2;
  std::uint64_t fpstate;
  std::uint64_t reserved[8];
};

struct UContext {  // struct ucontext of the x86-64 kernel
  std::uint64_t flags, link;
  std::uint64_t stack_base;
  std::int32_t stack_flags, stack_pad;
  std::uint64_t stack_size;
  SigContext registers;
  std::uint64_t signal_mask;
};

struct SoftwareBytes {  // struct _fpx_sw_bytes
  std::uint32_t magic1, extended_size;
  std::uint64_t features;
  std::uint32_t xstate_size, padding[7];
};

constexpr std::uint64_t kHasXstate = 1, kHasSegments = 2, kStrictSegments = 4;  // UC_*
constexpr std::uint32_t kMagic1 = 0x46505853, kMagic2 = 0x46505845;
constexpr std::size_t kSoftwareBytesOffset = 464;                 // also where NT_X86_XSTATE keeps XCR0
constexpr std::uint64_t kTileFeatures = (1U << 17) | (1U << 18);  // AMX: not in a default signal frame
constexpr std::int32_t kInvalidStackFlags = 0x7f00;
constexpr std::size_t kLegacySize = 512 + 64;

// Bytes that the features take in the standard format.
std::uint32_t xstate_size(std::uint64_t features) {
  std::uint32_t size = kLegacySize;
  for (std::uint32_t feature = 2; feature < 63; ++feature) {
    if ((features >> feature & 1) == 0) continue;
    std::uint32_t bytes = 0, offset = 0, c = 0, d = 0;
    __cpuid_count(0xd, feature, bytes, offset, c, d);
    size = std::max(size, offset + bytes);
  }
  return size;
}

std::uint32_t cached_xstate_size(std::uint64_t features) {
  static std::uint64_t known_features = 0;
  static std::uint32_t known_size = 0;
  if (features != known_features) {
    known_size = xstate_size(features);
    known_features = features;
  }
  return known_size;
}

}  // namespace

Result<model::TaskAddress> put_frame(Arena& arena, const FrameContents& contents) {
  const auto& from = contents.registers;
  UContext context{};
  context.flags = kHasXstate | kHasSegments | kStrictSegments;
  context.stack_flags = kInvalidStackFlags;
  context.registers = SigContext{.r8 = from.r8,
                                 .r9 = from.r9,
                                 .r10 = from.r10,
                                 .r11 = from.r11,
                                 .r12 = from.r12,
                                 .r13 = from.r13,
                                 .r14 = from.r14,
                                 .r15 = from.r15,
                                 .rdi = from.rdi,
                                 .rsi = from.rsi,
                                 .rbp = from.rbp,
                                 .rbx = from.rbx,
                                 .rdx = from.rdx,
                                 .rax = from.rax,
                                 .rcx = from.rcx,
                                 .rsp = from.rsp,
                                 .rip = from.rip,
                                 .eflags = from.eflags,
                                 .cs = static_cast<std::uint16_t>(from.cs),
                                 .gs = 0,
                                 .fs = 0,
                                 .ss = static_cast<std::uint16_t>(from.ss),
                                 .err = 0,
                                 .trapno = 0,
                                 .oldmask = 0,
                                 .cr2 = 0,
                                 .fpstate = 0,
                                 .reserved = {}};
  context.signal_mask = contents.signal_mask;

  if (contents.xstate.size() >= kLegacySize) {
    std::uint64_t features = 0;
    std::memcpy(&features, contents.xstate.data() + kSoftwareBytesOffset, sizeof features);
    features &= ~kTileFeatures;
    const std::uint32_t size =
        std::min(cached_xstate_size(features), static_cast<std::uint32_t>(contents.xstate.size()));
    const ArenaPiece area = RELIVE_TRY(arena.take(size + sizeof kMagic2));
    std::memcpy(area.here, contents.xstate.data(), size);
    std::uint64_t present = 0;  // XSTATE_BV
    std::memcpy(&present, area.here + 512, sizeof present);
    present &= features;
    std::memcpy(area.here + 512, &present, sizeof present);
    const SoftwareBytes software{.magic1 = kMagic1,
                                 .extended_size = static_cast<std::uint32_t>(size + sizeof kMagic2),
                                 .features = features,
                                 .xstate_size = size,
                                 .padding = {}};
    std::memcpy(area.here + kSoftwareBytesOffset, &software, sizeof software);
    std::memcpy(area.here + size, &kMagic2, sizeof kMagic2);
    context.registers.fpstate = area.there.value;
  }
  return arena.put_value(context);
}

user_regs_struct reissue_system_call(user_regs_struct registers) {
  // Linux, include/linux/errno.h: seen by tracers only.
  constexpr std::int64_t kRestartSys = -512, kRestartNoIntr = -513, kRestartNoHand = -514, kRestartBlock = -516;
  const auto result = static_cast<std::int64_t>(registers.rax);
  const bool inside = static_cast<std::int64_t>(registers.orig_rax) >= 0;
  if (inside &&
      (result == kRestartSys || result == kRestartNoIntr || result == kRestartNoHand || result == kRestartBlock)) {
    registers.rax = registers.orig_rax;
    registers.rip -= 2;  // over the two bytes of `syscall`
  }
  registers.orig_rax = ~0ULL;
  return registers;
}

}  // namespace relive::parasite
