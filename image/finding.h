// What is wrong with an image: all of it, each with its file and entry.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace relive::image {

enum class Severity : std::uint8_t {
  damaged,      // not whole, or not consistent: nothing is done with it
  unsupported,  // whole, but this release or this machine cannot apply it
};

struct Finding {
  Severity severity = Severity::damaged;
  std::string file;                    // "mm-17.img"; empty: the image as a whole
  std::optional<std::uint64_t> entry;  // counted from 0
  std::string text;                    // "mapping 7f00-7f10 overlaps the one before it"
  bool operator==(const Finding&) const = default;
};

// "mm-17.img, entry 0: mapping ..."
[[nodiscard]] std::string text(const Finding& finding);

// Collects them. A hostile image may have millions: after kLimit they are only counted.
class Findings {
 public:
  static constexpr std::size_t kLimit = 1000;
  void damaged(std::string file, std::optional<std::uint64_t> entry, std::string what);
  void unsupported(std::string file, std::optional<std::uint64_t> entry, std::string what);
  [[nodiscard]] const std::vector<Finding>& all() const { return all_; }
  [[nodiscard]] std::uint64_t count() const { return count_; }
  [[nodiscard]] bool any_damage() const { return damage_; }

 private:
  void add(Finding finding);
  std::vector<Finding> all_;
  std::uint64_t count_ = 0;
  bool damage_ = false;
};

}  // namespace relive::image
