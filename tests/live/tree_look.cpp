#include "live/tree_look.h"

#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <functional>
#include <string_view>
#include <utility>

#include "live/puppets.h"

namespace relive::testing {

namespace {

// Numbers of objects that are new when they were made again (inodes of pipes, ids of eventfds) become the order in
// which they are met.
class Ordinals {
 public:
  std::string rename(const std::string& text) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      std::size_t end = at;
      while (end < text.size() && std::isdigit(static_cast<unsigned char>(text[end])) != 0) ++end;
      const std::string_view kind = end == at ? std::string_view{} : kind_at(text, at);
      if (kind.empty()) {
        out += text.substr(at, std::max<std::size_t>(end - at, 1));
        at = std::max(end, at + 1);
        continue;
      }
      const auto [known, fresh] =
          ordinals_.try_emplace(std::string(kind) + text.substr(at, end - at), ordinals_.size());
      out += fmt::format("#{}", known->second);
      at = end;
    }
    return out;
  }

 private:
  // What stands before the number of an object; empty where it is none.
  static std::string_view kind_at(const std::string& text, std::size_t at) {
    for (const std::string_view before : {"[", "ino:\t", "eventfd-id: "})
      if (at >= before.size() && text.compare(at - before.size(), before.size(), before) == 0) return before;
    return {};
  }
  std::map<std::string, std::size_t> ordinals_;
};

// Things that kcmp(2) tells apart, numbered in the order in which they are met.
class Objects {
 public:
  using Compare = std::function<long(std::size_t, std::size_t)>;
  explicit Objects(Compare compare) : compare_(std::move(compare)) {}
  std::size_t number(std::size_t thing) {
    std::size_t low = 0;
    for (std::size_t high = sorted_.size(); low != high;) {
      const std::size_t middle = low + (high - low) / 2;
      const long order = compare_(sorted_[middle].first, thing);
      if (order == 0) return sorted_[middle].second;
      if (order == 1)
        low = middle + 1;
      else
        high = middle;
    }
    const std::size_t next = sorted_.size();
    sorted_.insert(sorted_.begin() + static_cast<std::ptrdiff_t>(low), {thing, next});
    return next;
  }

 private:
  Compare compare_;
  std::vector<std::pair<std::size_t, std::size_t>> sorted_;
};

void look_at_stat(pid_t pid, const std::vector<std::string>& stat, TreeLook& look) {
  const bool zombie = stat[0] == "Z";
  const auto fact = [&](std::string_view name, const std::string& value) {
    look.facts[fmt::format("{} {}", pid, name)] = value;
  };
  fact("state", zombie ? "zombie" : "alive");
  fact("parent", stat[1]);
  fact("group", stat[2]);
  fact("session", stat[3]);
  fact("exit signal", stat[35]);
  if (zombie) {
    fact("status", stat[49]);
    return;
  }
  constexpr unsigned long kForkNoExec = 0x40;  // PF_FORKNOEXEC: setpgid(2) asks for it
  fact("execed", (std::stoul(stat[6]) & kForkNoExec) != 0 ? "no" : "yes");
  fact("nice", stat[16]);
}

void look_at_shared(const std::vector<pid_t>& living, TreeLook& look) {
  constexpr std::array<std::pair<int, std::string_view>, 4> kKinds{{{KCMP_VM, "memory"},
                                                                    {KCMP_FILES, "descriptor table"},
                                                                    {KCMP_FS, "directories"},
                                                                    {KCMP_SIGHAND, "signal actions"}}};
  for (const auto& [kind, name] : kKinds) {
    Objects objects([&, kind = kind](std::size_t one, std::size_t other) {
      return ::syscall(SYS_kcmp, living[one], living[other], kind, 0, 0);
    });
    for (std::size_t index = 0; index < living.size(); ++index)
      look.facts[fmt::format("{} {}", living[index], name)] = fmt::format("#{}", objects.number(index));
  }
}

void look_at_descriptors(const std::vector<pid_t>& living, TreeLook& look) {
  Ordinals ordinals;
  std::vector<std::pair<pid_t, int>> all;
  Objects files([&](std::size_t one, std::size_t other) {
    return ::syscall(SYS_kcmp, all[one].first, all[other].first, KCMP_FILE, all[one].second, all[other].second);
  });
  for (const pid_t pid : living) {
    for (auto& [fd, text] : look.tasks.at(pid).descriptors) {
      all.emplace_back(pid, fd);
      text = fmt::format("open file #{}: {}", files.number(all.size() - 1), ordinals.rename(text));
    }
  }
}

// SIGUSR2, for which a puppet waits in sigtimedwait(2), is not blocked there, and is where it was stopped on its way
// back.
void forget_awaited_signal(Likeness& task) {
  constexpr std::string_view kBlocked = "SigBlk:\t";
  constexpr std::size_t kDigits = 16;
  for (std::string& text : task.threads) {
    const auto at = text.find(kBlocked);
    if (at == std::string::npos) continue;
    const std::uint64_t mask = std::stoull(text.substr(at + kBlocked.size(), kDigits), nullptr, 16);
    text.replace(at + kBlocked.size(), kDigits, fmt::format("{:016x}", mask & ~(std::uint64_t{1} << (SIGUSR2 - 1))));
  }
}

// What lies below its stack pointer and the red zone is nothing to a program, and the first visit stands there
// (parasite/way_home.h).
void forget_unused_stack(pid_t pid, Likeness& task) {
  constexpr std::uint64_t kRedZone = 128;
  std::ifstream file(fmt::format("/proc/{}/syscall", pid));  // ends in the stack pointer and the program counter
  const std::vector<std::string> words{std::istream_iterator<std::string>(file), {}};
  if (words.size() < 3) return;
  const std::uint64_t used = std::stoull(words[words.size() - 2], nullptr, 16) - kRedZone;
  for (auto& [begin, bytes] : task.memory)
    if (begin <= used && used - begin < bytes.size())
      std::ranges::fill(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(used - begin), '\0');
}

}  // namespace

TreeLook look_at_tree(const std::set<pid_t>& pids) {
  TreeLook look;
  std::vector<pid_t> living;
  for (const pid_t pid : pids) {
    auto stat = stat_of(pid);
    if (!stat.empty() && stat[0] != "Z") {
      Likeness task = look_at(model::Pid{pid});  // waits until it rests
      forget_unused_stack(pid, task);
      forget_awaited_signal(task);
      look.tasks.emplace(pid, std::move(task));
      living.push_back(pid);
      stat = stat_of(pid);
    }
    if (stat.size() < 50)
      look.facts[fmt::format("{} state", pid)] = "none";
    else
      look_at_stat(pid, stat, look);
  }
  look_at_shared(living, look);
  look_at_descriptors(living, look);
  return look;
}

std::vector<std::string> unlike(const TreeLook& before, const TreeLook& after) {
  std::vector<std::string> out;
  for (const auto& [name, value] : before.facts) {
    const auto other = after.facts.find(name);
    if (other == after.facts.end())
      out.push_back(fmt::format("{}: {} -> nothing", name, value));
    else if (other->second != value)
      out.push_back(fmt::format("{}: {} -> {}", name, value, other->second));
  }
  for (const auto& [name, value] : after.facts)
    if (!before.facts.contains(name)) out.push_back(fmt::format("{}: nothing -> {}", name, value));
  for (const auto& [pid, task] : before.tasks) {
    const auto other = after.tasks.find(pid);
    if (other == after.tasks.end()) continue;  // its facts tell
    for (const auto& line : unlike(task, other->second)) out.push_back(fmt::format("{}: {}", pid, line));
  }
  return out;
}

}  // namespace relive::testing
