#include "image/xstate.h"

#include <cpuid.h>

#include <algorithm>
#include <cstring>

#include "image/proto/registers.pb.h"

namespace relive::image {

namespace {

// Bits of XCR0 (Intel SDM 1, 13.1), and the size of each area.
enum Bit : std::uint8_t {
  kYmm = 2,
  kBoundRegisters = 3,
  kBoundConfig = 4,
  kOpmask = 5,
  kZmmHigh = 6,
  kZmmUpper = 7,
  kKeys = 9
};
constexpr std::size_t kLegacy = 512;    // the FXSAVE area
constexpr std::size_t kStatesAt = 512;  // XSTATE_BV
constexpr std::size_t kHeader = 64;     //
constexpr std::size_t kSoftwareXcr0 =
    464;                              // where the kernel tells XCR0 (struct _fpx_sw_bytes comes with signal frames)
constexpr std::uint64_t kAlways = 3;  // x87 and SSE

template <class T>
T get(std::span<const std::byte> area, std::size_t at) {
  T value{};
  if (at + sizeof value <= area.size()) std::memcpy(&value, area.data() + at, sizeof value);
  return value;
}

template <class T>
void put(std::span<std::byte> area, std::size_t at, T value) {
  if (at + sizeof value <= area.size()) std::memcpy(area.data() + at, &value, sizeof value);
}

template <class Word>
void words_of(std::span<const std::byte> xstate, XstateLayout::Component component, auto& into) {
  for (std::size_t at = 0; at < component.size; at += sizeof(Word)) into.Add(get<Word>(xstate, component.offset + at));
}

}  // namespace

const XstateLayout& XstateLayout::of_this_machine() {
  static const XstateLayout layout = [] {
    XstateLayout found{};
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    if (__get_cpuid_count(0xd, 0, &a, &b, &c, &d) == 0) return found;
    found.total = std::max<std::uint32_t>(b, kLegacy + kHeader);
    found.known_mask = a | std::uint64_t{d} << 32;
    for (unsigned i = 2; i < kComponents; ++i) {
      if ((found.known_mask >> i & 1) == 0 || __get_cpuid_count(0xd, i, &a, &b, &c, &d) == 0) continue;
      found.components[i] = {b, a};
    }
    return found;
  }();
  return layout;
}

void to_entry(std::span<const std::byte> xstate, const XstateLayout& layout, pb::FloatingPoint& entry) {
  entry.set_control(get<std::uint16_t>(xstate, 0));
  entry.set_status(get<std::uint16_t>(xstate, 2));
  entry.set_tags(get<std::uint16_t>(xstate, 4));
  entry.set_opcode(get<std::uint16_t>(xstate, 6));
  entry.set_instruction(get<std::uint64_t>(xstate, 8));
  entry.set_operand(get<std::uint64_t>(xstate, 16));
  entry.set_mxcsr(get<std::uint32_t>(xstate, 24));
  entry.set_mxcsr_mask(get<std::uint32_t>(xstate, 28));
  words_of<std::uint32_t>(xstate, {32, 128}, *entry.mutable_st());
  words_of<std::uint32_t>(xstate, {160, 256}, *entry.mutable_xmm());
  if (xstate.size() < kLegacy + kHeader) return;
  pb::ExtendedState& extended = *entry.mutable_extended();
  extended.set_components(get<std::uint64_t>(xstate, kStatesAt));
  const auto& parts = layout.components;
  words_of<std::uint32_t>(xstate, parts[kYmm], *extended.mutable_ymm_high());
  words_of<std::uint64_t>(xstate, parts[kBoundRegisters], *extended.mutable_bound_registers());
  words_of<std::uint64_t>(xstate, parts[kBoundConfig], *extended.mutable_bound_config());
  words_of<std::uint64_t>(xstate, parts[kOpmask], *extended.mutable_opmasks());
  words_of<std::uint64_t>(xstate, parts[kZmmHigh], *extended.mutable_zmm_high());
  words_of<std::uint64_t>(xstate, parts[kZmmUpper], *extended.mutable_zmm_upper_registers());
  words_of<std::uint32_t>(xstate, parts[kKeys], *extended.mutable_protection_keys());
}

std::vector<std::byte> from_entry(const pb::FloatingPoint& entry, const XstateLayout& layout,
                                  std::vector<std::string>& missing) {
  const std::size_t total = entry.has_extended() ? std::max<std::size_t>(layout.total, kLegacy + kHeader) : kLegacy;
  std::vector<std::byte> xstate(total);
  put(xstate, 0, static_cast<std::uint16_t>(entry.control()));
  put(xstate, 2, static_cast<std::uint16_t>(entry.status()));
  put(xstate, 4, static_cast<std::uint16_t>(entry.tags()));
  put(xstate, 6, static_cast<std::uint16_t>(entry.opcode()));
  put(xstate, 8, entry.instruction());
  put(xstate, 16, entry.operand());
  put(xstate, 24, entry.mxcsr());
  put(xstate, 28, entry.mxcsr_mask());
  const auto lay = [&](const auto& words, XstateLayout::Component where) {
    std::size_t at = 0;
    for (const auto word : words) {
      if (at + sizeof word > where.size) break;
      put(xstate, where.offset + at, word);
      at += sizeof word;
    }
  };
  lay(entry.st(), {32, 128});
  lay(entry.xmm(), {160, 256});
  if (!entry.has_extended()) return xstate;
  const pb::ExtendedState& extended = entry.extended();
  std::uint64_t states = extended.components();
  const auto component = [&](const auto& words, Bit bit, const char* name) {
    const auto where = layout.components[bit];
    if (where.size == 0 && (states >> bit & 1) != 0) {
      missing.emplace_back(name);
      states &= ~(std::uint64_t{1} << bit);
    }
    lay(words, where);
  };
  component(extended.ymm_high(), kYmm, "AVX state");
  component(extended.bound_registers(), kBoundRegisters, "MPX bounds");
  component(extended.bound_config(), kBoundConfig, "MPX configuration");
  component(extended.opmasks(), kOpmask, "AVX-512 masks");
  component(extended.zmm_high(), kZmmHigh, "AVX-512 state");
  component(extended.zmm_upper_registers(), kZmmUpper, "AVX-512 registers");
  component(extended.protection_keys(), kKeys, "protection keys");
  constexpr std::uint64_t kTold = kAlways | 1 << kYmm | 1 << kBoundRegisters | 1 << kBoundConfig | 1 << kOpmask |
                                  1 << kZmmHigh | 1 << kZmmUpper | 1 << kKeys;
  put(xstate, kStatesAt, states & kTold);  // the others are as after a reset
  put(xstate, kSoftwareXcr0, layout.known_mask);
  return xstate;
}

}  // namespace relive::image
