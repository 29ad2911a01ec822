// The memory that a keeper and the parasite share: one memfd, mapped in both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"
#include "model/ids.h"
#include "parasite/wire.h"

namespace relive::parasite {

// A piece of the arena: the same bytes at an address of ours and at one of the task's.
struct ArenaPiece {
  std::byte* here = nullptr;
  model::TaskAddress there;
  std::size_t size = 0;
};

class Arena {
 public:
  static constexpr std::size_t kBytes = std::size_t{64} << 20;  // address space; memory is taken as it is touched

  Arena(UniqueFd memfd, std::byte* here, model::TaskAddress there);
  Arena(Arena&&) noexcept;
  Arena& operator=(Arena&&) = delete;
  ~Arena();

  // Takes `size` zeroed bytes, 64-byte aligned, until the next reset(). ErrorKind::refused when the arena is full.
  Result<ArenaPiece> take(std::size_t size);
  // The same, with whatever was in them.
  Result<ArenaPiece> take_used(std::size_t size);
  // Takes room for a copy of `bytes` and fills it. Returns its address in the task.
  Result<model::TaskAddress> put(std::span<const std::byte> bytes);
  template <class T>
  Result<model::TaskAddress> put_value(const T& value) {
    return put(std::as_bytes(std::span(&value, 1)));
  }
  // Forgets all pieces (not the control block). Called at the begin of every visit.
  void reset();

  [[nodiscard]] wire::Control& control();
  [[nodiscard]] model::TaskAddress control_address() const { return there_; }
  // Our view of an address inside the arena. REQUIRES: it lies inside.
  [[nodiscard]] std::byte* local(model::TaskAddress address) const { return here_ + (address.value - there_.value); }
  [[nodiscard]] model::TaskAddress begin() const { return there_; }

 private:
  UniqueFd memfd_;
  std::byte* here_ = nullptr;
  model::TaskAddress there_;
  std::size_t used_ = 0;
  std::size_t high_water_ = 0;
};

}  // namespace relive::parasite
