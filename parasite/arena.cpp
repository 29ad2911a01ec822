#include "parasite/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace relive::parasite {

namespace {
constexpr std::size_t kControlBytes = 4096;  // the control block has a page of its own
constexpr std::size_t kAlign = 64;           // what XSAVE areas need
static_assert(sizeof(wire::Control) <= kControlBytes);
}  // namespace

Arena::Arena(UniqueFd memfd, std::byte* here, model::TaskAddress there)
    : memfd_(std::move(memfd)), here_(here), there_(there), used_(kControlBytes), high_water_(kControlBytes) {}

Arena::Arena(Arena&& other) noexcept
    : memfd_(std::move(other.memfd_)),
      here_(std::exchange(other.here_, nullptr)),
      there_(other.there_),
      used_(other.used_),
      high_water_(other.high_water_) {}

Arena::~Arena() {
  if (here_ != nullptr) ::munmap(here_, kBytes);
}

Result<ArenaPiece> Arena::take_used(std::size_t size) {
  const std::size_t begin = used_;
  if (size > kBytes || begin + size > kBytes)
    return fail(ErrorKind::refused, fmt::format("the arena shared with the task is full ({} bytes wanted)", size));
  used_ = (begin + size + kAlign - 1) / kAlign * kAlign;
  high_water_ = std::max(high_water_, used_);
  return ArenaPiece{.here = here_ + begin, .there = there_ + begin, .size = size};
}

Result<ArenaPiece> Arena::take(std::size_t size) {
  const std::size_t touched = high_water_;
  const ArenaPiece piece = RELIVE_TRY(take_used(size));
  const auto begin = static_cast<std::size_t>(piece.here - here_);
  if (begin < touched) std::memset(piece.here, 0, std::min(size, touched - begin));
  return piece;
}

Result<model::TaskAddress> Arena::put(std::span<const std::byte> bytes) {
  const ArenaPiece piece = RELIVE_TRY(take(bytes.size()));
  if (!bytes.empty()) std::memcpy(piece.here, bytes.data(), bytes.size());
  return piece.there;
}

void Arena::reset() { used_ = kControlBytes; }

wire::Control& Arena::control() { return *reinterpret_cast<wire::Control*>(here_); }

}  // namespace relive::parasite
