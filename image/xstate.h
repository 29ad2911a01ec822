// Vector state: the kernel's layout (NT_X86_XSTATE, the standard format of XSAVE) to and from the words of an image.
//
// Where a component lies in the area differs between processors, so CPUID (leaf 0xd) is asked; the words themselves are
// the same everywhere. The image knows the components up to protection keys; the rest is relive's to keep
// (extra.proto).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "image/finding.h"

namespace relive::image {

namespace pb {
class FloatingPoint;
}

struct XstateLayout {
  struct Component {
    std::uint32_t offset = 0;  // bytes into the area
    std::uint32_t size = 0;    // 0: this machine has none
  };
  static constexpr std::size_t kComponents = 19;
  std::array<Component, kComponents> components;
  std::uint32_t total = 0;       // bytes of the area
  std::uint64_t known_mask = 0;  // XCR0
  static const XstateLayout& of_this_machine();
};

void to_entry(std::span<const std::byte> xstate, const XstateLayout& layout, pb::FloatingPoint& entry);

// `layout` is that of the machine where it shall be set. What the machine lacks is named in `missing` ("AVX-512
// state").
std::vector<std::byte> from_entry(const pb::FloatingPoint& entry, const XstateLayout& layout,
                                  std::vector<std::string>& missing);

}  // namespace relive::image
