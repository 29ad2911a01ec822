// Changes what lies below a directory in every way that a program can, at random, the same for the same seed.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace relive::testing {

class Shaker {
 public:
  Shaker(std::string directory, std::uint64_t seed) : directory_(std::move(directory)), random_(seed) {}
  // So many changes. Those that the file system does not allow change nothing.
  void shake(int changes);

 private:
  std::size_t below(std::size_t limit) { return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_); }
  // A path that is there, the directory itself among the directories; of a kind or of any ('f', 'd', '*').
  std::string some(char kind);
  std::string fresh();
  void change();
  void write(const std::string& path);
  void write_mapped(const std::string& path);
  void make(const std::string& path);
  void replace(const std::string& path);

  std::string directory_;
  std::mt19937_64 random_;
};

}  // namespace relive::testing
