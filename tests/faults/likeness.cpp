#include "faults/likeness.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "base/unique_fd.h"

namespace relive::testing {

namespace {

std::string slurp(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string link(const std::string& path) {
  std::error_code error;
  return std::filesystem::read_symlink(path, error).string();
}

std::vector<int> numbers_in(const std::string& directory) {
  std::vector<int> numbers;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error))
    numbers.push_back(std::stoi(entry.path().filename()));
  std::ranges::sort(numbers);
  return numbers;
}

// The lines of `text` whose name is one of `names`.
std::string lines(const std::string& text, std::initializer_list<std::string_view> names) {
  std::istringstream in(text);
  std::string out;
  for (std::string line; std::getline(in, line);) {
    const auto name = std::string_view(line).substr(0, line.find(':'));
    if (std::ranges::find(names, name) != names.end()) out += line + "\n";
  }
  return out;
}

// A timer's time runs.
std::string without_time_left(const std::string& info) {
  const std::size_t begin = info.find("it_value:");
  if (begin == std::string::npos) return info;
  return info.substr(0, begin) + info.substr(std::min(info.find('\n', begin), info.size()));
}

struct Line {
  AddressRange range;
  std::string permissions;
  std::uint64_t offset = 0;
  std::string rest;  // device, inode, name

  [[nodiscard]] bool continues(const Line& before) const {
    const bool file = !rest.starts_with("00:00 0");
    return range.begin == before.range.end && permissions == before.permissions && rest == before.rest &&
           (!file || offset == before.offset + before.range.size());
  }
};

std::vector<Line> read_maps(const std::string& proc) {
  std::vector<Line> out;
  std::istringstream maps(slurp(proc + "/maps"));
  for (std::string text; std::getline(maps, text);) {
    if (text.find("relive") != std::string::npos) continue;
    Line line;
    char permissions[8] = {};
    unsigned long begin = 0;
    unsigned long end = 0;
    unsigned long offset = 0;
    int consumed = 0;
    if (std::sscanf(text.c_str(), "%lx-%lx %7s %lx %n", &begin, &end, permissions, &offset, &consumed) != 4) continue;
    line = {.range = {begin, end},
            .permissions = permissions,
            .offset = offset,
            .rest = text.substr(static_cast<std::size_t>(consumed))};
    if (!out.empty() && line.continues(out.back())) {
      out.back().range.end = end;
    } else {
      out.push_back(std::move(line));
    }
  }
  return out;
}

// A thread that has just answered is still on its way back to where it waits.
void wait_for_rest(const std::string& proc) {
  const auto rests = [&](int tid) {
    const std::string status = slurp(fmt::format("{}/task/{}/status", proc, tid));
    return status.find("State:\tS") != std::string::npos || status.find("State:\tT") != std::string::npos;
  };
  for (int tries = 0; tries < 5000 && !std::ranges::all_of(numbers_in(proc + "/task"), rests); ++tries) ::usleep(1000);
}

template <class Key>
void compare(const std::string& what, const std::map<Key, std::string>& before, const std::map<Key, std::string>& after,
             std::vector<std::string>& out) {
  for (const auto& [key, text] : before) {
    const auto other = after.find(key);
    if (other == after.end())
      out.push_back(fmt::format("{} {} is gone: {}", what, key, text));
    else if (other->second != text)
      out.push_back(fmt::format("{} {}: {} -> {}", what, key, text, other->second));
  }
  for (const auto& [key, text] : after) {
    if (!before.contains(key)) out.push_back(fmt::format("{} {} is new: {}", what, key, text));
  }
}

void compare(const std::string& what, const std::vector<std::string>& before, const std::vector<std::string>& after,
             std::vector<std::string>& out) {
  for (const auto& line : before) {
    if (std::ranges::find(after, line) == after.end()) out.push_back(fmt::format("{} gone: {}", what, line));
  }
  for (const auto& line : after) {
    if (std::ranges::find(before, line) == before.end()) out.push_back(fmt::format("{} new: {}", what, line));
  }
}

// The kernel writes struct rseq (32 bytes, aligned so) as a thread is scheduled: a few differing bytes within one such
// unit, where the unit keeps all but its CPU numbers, are no change of relive's.
bool like_rseq(const std::string& before, const std::string& after, std::size_t unit) {
  constexpr std::size_t kCpuIdStart = 0, kCpuId = 4, kCriticalSection = 8, kNode = 20, kConcurrencyId = 24;
  const auto word = [&](const std::string& text, std::size_t offset) {
    std::uint32_t value = 0;
    std::memcpy(&value, text.data() + unit + offset, sizeof value);
    return value;
  };
  constexpr std::uint32_t kCpus = 4096;
  for (const auto* text : {&before, &after}) {
    if (word(*text, kCpuIdStart) != word(*text, kCpuId) || word(*text, kCpuId) >= kCpus) return false;
    if (word(*text, kNode) >= kCpus || word(*text, kConcurrencyId) >= kCpus) return false;
  }
  return before.compare(unit + kCriticalSection, kNode - kCriticalSection, after, unit + kCriticalSection,
                        kNode - kCriticalSection) == 0;
}

std::string hex(const std::string& bytes, std::size_t at) {
  std::string out;
  for (const char byte : bytes.substr(at, 32)) out += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return out;
}

void compare_memory(const Likeness& before, const Likeness& after, std::vector<std::string>& out) {
  constexpr std::size_t kUnit = 32;
  for (const auto& [begin, bytes] : before.memory) {
    const auto other = after.memory.find(begin);
    if (other == after.memory.end() || other->second.size() != bytes.size()) continue;  // mappings tell
    for (std::size_t at = 0; at < bytes.size(); at += kUnit) {
      if (bytes.compare(at, kUnit, other->second, at, kUnit) == 0) continue;
      if (!like_rseq(bytes, other->second, at))
        out.push_back(fmt::format("memory at {:#x}: {} -> {}", begin + at, hex(bytes, at), hex(other->second, at)));
    }
  }
}

}  // namespace

Likeness look_at(model::Pid pid) {
  const std::string proc = fmt::format("/proc/{}", pid.value);
  wait_for_rest(proc);
  Likeness out;
  const UniqueFd memory(::open((proc + "/mem").c_str(), O_RDONLY | O_CLOEXEC));
  for (const auto& line : read_maps(proc)) {
    out.mappings.push_back(fmt::format("{:x}-{:x} {} {:x} {}", line.range.begin, line.range.end, line.permissions,
                                       line.offset, line.rest));
    if (line.permissions != "rw-p") continue;
    std::string bytes(line.range.size(), '\0');
    const auto got = ::pread(memory.get(), bytes.data(), bytes.size(), static_cast<off_t>(line.range.begin));
    if (got >= 0) out.memory.emplace(line.range.begin, std::move(bytes));
  }
  for (const int fd : numbers_in(proc + "/fd")) {
    const std::string info = slurp(fmt::format("{}/fdinfo/{}", proc, fd));
    out.descriptors.emplace(fd, link(fmt::format("{}/fd/{}", proc, fd)) + " " + without_time_left(info));
  }
  for (const int tid : numbers_in(proc + "/task")) {
    const std::string status = slurp(fmt::format("{}/task/{}/status", proc, tid));
    out.threads.push_back(
        fmt::format("{} {}", tid,
                    lines(status, {"Name", "Umask", "Uid", "Gid", "Groups", "SigPnd", "ShdPnd", "SigBlk", "SigIgn",
                                   "SigCgt", "CapEff", "NoNewPrivs", "Seccomp", "Cpus_allowed", "TracerPid"})));
  }
  for (const char* name : {"limits", "oom_score_adj", "personality", "timers", "comm"})
    out.texts.emplace(name, slurp(proc + "/" + name));
  for (const char* name : {"cwd", "root", "exe"}) out.texts.emplace(name, link(proc + "/" + name));
  return out;
}

std::vector<std::string> unlike(const Likeness& before, const Likeness& after) {
  std::vector<std::string> out;
  compare("mapping", before.mappings, after.mappings, out);
  compare("descriptor", before.descriptors, after.descriptors, out);
  compare("thread", before.threads, after.threads, out);
  compare("text", before.texts, after.texts, out);
  compare_memory(before, after, out);
  return out;
}

}  // namespace relive::testing
