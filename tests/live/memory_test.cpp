// A child that does to its memory what programs do, at random; captured before, taken back behind, and compared:
// ranges, protections, marks, locks, program break, contents. The page store and the tracker are stood in for by the
// simplest that can be right: everything is read and compared.
#include "apply/memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <utility>

#include "base/fault.h"
#include "capture/memory.h"
#include "live/child.h"
#include "task/procfs.h"

namespace relive {
namespace {

using model::Mapping;
using model::MappingSource;
using parasite::Session;
using parasite::Visit;
using task::FrozenTask;
using testing::Child;
using testing::ChildEnd;
using ::testing::IsEmpty;

constexpr std::uint64_t kPlayground = 0x200000000000;
constexpr std::uint64_t kPlaygroundPages = 96;
constexpr AddressRange kPlaygroundRange{kPlayground, kPlayground + kPlaygroundPages* kPageSize};
constexpr std::uint64_t kFilePages = 16;
constexpr std::uint64_t kStoreBytes = std::uint64_t{256} << 20;

void* page_at(std::uint64_t page) { return reinterpret_cast<void*>(kPlayground + page * kPageSize); }

// ---- the child's side

// Seeds with a meaning.
constexpr unsigned kSeal = 0xffffffff;
constexpr unsigned kShow = 0xfffffffe;
constexpr unsigned kTruncate = 0xfffffffd;
constexpr unsigned kExecuteOnlyBehind = 0xfffffffc;
constexpr unsigned kExecuteOnlyBefore = 0xfffffffb;

class Mutator {
 public:
  Mutator(int file, int memfd, int deleted) : files_{file, memfd, deleted} {}

  void run(unsigned seed) {
    if (seed == kSeal) {
      (void)::mmap(page_at(0), 4 * kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      ::syscall(462, page_at(1), kPageSize, 0);  // mseal
      return;
    }
    if (seed == kShow) {
      (void)::mmap(page_at(0), kFilePages * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, files_[1], 0);
      std::memset(page_at(0), 'x', kFilePages * kPageSize);
      return;
    }
    if (seed == kTruncate) {
      std::memset(page_at(0), 'y', kFilePages * kPageSize);
      if (::ftruncate(files_[1], static_cast<off_t>(kPageSize)) != 0) ::_exit(98);
      return;
    }
    if (seed == kExecuteOnlyBehind || seed == kExecuteOnlyBefore) {
      constexpr std::uint64_t kHalf = 4;
      constexpr std::size_t kBytes = 2 * kHalf * kPageSize;
      (void)::mmap(page_at(0), kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
      ::mprotect(page_at(0), kBytes, PROT_READ | PROT_WRITE);
      std::memset(page_at(0), static_cast<int>(seed & 0xff), kBytes);
      ::mprotect(page_at(seed == kExecuteOnlyBehind ? kHalf : 0), kHalf * kPageSize, PROT_EXEC);
      return;
    }
    std::mt19937 random(seed);
    for (auto left = 1 + random() % 12; left > 0; --left) act(random);
  }

 private:
  static void scribble(std::mt19937& random, std::uint64_t page, std::uint64_t pages) {
    // Through the kernel, so that unwritable pages are an error and no signal: read(2) from /dev/zero would give zeros
    // only.
    int pipe[2];
    if (::pipe(pipe) != 0) return;
    for (std::uint64_t i = 0; i < pages; ++i) {
      const std::uint32_t word = static_cast<std::uint32_t>(random());
      if (::write(pipe[1], &word, sizeof word) != sizeof word) break;
      if (::read(pipe[0], static_cast<char*>(page_at(page + i)) + random() % 4000, sizeof word) < 0) {
        std::uint32_t away = 0;
        if (::read(pipe[0], &away, sizeof away) < 0) break;
      }
    }
    ::close(pipe[0]);
    ::close(pipe[1]);
  }

  [[gnu::noinline]] static void grow_stack(std::size_t bytes) {
    auto* room = static_cast<volatile char*>(__builtin_alloca(bytes));
    for (std::size_t at = 0; at < bytes; at += 4096) room[at] = 1;
  }

  void act(std::mt19937& random) {
    const std::uint64_t page = random() % kPlaygroundPages;
    const std::uint64_t pages = 1 + random() % std::min<std::uint64_t>(12, kPlaygroundPages - page);
    const std::size_t bytes = pages * kPageSize;
    const int protection = static_cast<int>(random() % 4 == 0 ? random() % 8 : PROT_READ | PROT_WRITE);
    switch (random() % 14) {
      case 0:
        ::munmap(page_at(page), bytes);
        break;
      case 1:
        (void)::mmap(page_at(page), bytes, protection,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | (random() % 4 == 0 ? MAP_NORESERVE : 0), -1, 0);
        break;
      case 2:
        (void)::mmap(page_at(page), bytes, protection, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        break;
      case 3:
      case 4: {
        const std::uint64_t first = random() % (kFilePages - 1);
        const auto length = std::min(pages, kFilePages - first) * kPageSize;
        (void)::mmap(page_at(page), length, protection, (random() % 2 == 0 ? MAP_SHARED : MAP_PRIVATE) | MAP_FIXED,
                     files_[random() % 3], static_cast<off_t>(first * kPageSize));
        break;
      }
      case 5:
        ::mprotect(page_at(page), bytes, protection);
        break;
      case 6: {
        const std::uint64_t to = random() % (kPlaygroundPages - pages);
        ::mremap(page_at(page), bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, page_at(to));
        break;
      }
      case 7: {
        const int advices[] = {MADV_DONTFORK,   MADV_DOFORK,   MADV_DONTDUMP,  MADV_DODUMP,
                               MADV_SEQUENTIAL, MADV_RANDOM,   MADV_NORMAL,    MADV_WIPEONFORK,
                               MADV_KEEPONFORK, MADV_HUGEPAGE, MADV_NOHUGEPAGE};
        ::madvise(page_at(page), bytes, advices[random() % std::size(advices)]);
        break;
      }
      case 8:
        ::madvise(page_at(page), bytes, random() % 2 == 0 ? MADV_DONTNEED : MADV_REMOVE);
        break;
      case 9:
        random() % 2 == 0 ? ::mlock(page_at(page), bytes) : ::munlock(page_at(page), bytes);
        break;
      case 10: {
        const long step = static_cast<long>(random() % 5000) * 16;
        const bool down = grown_ >= step && random() % 2 == 0;
        auto* heap = static_cast<char*>(::sbrk(down ? -step : step));
        if (heap != reinterpret_cast<char*>(-1) && !down && step > 0)
          std::memset(heap, static_cast<int>(random()), static_cast<std::size_t>(step));
        grown_ += down ? -step : step;
        break;
      }
      case 11:
        grow_stack(random() % 500000);
        break;
      default:
        scribble(random, page, pages);
        break;
    }
  }

  int files_[3];
  long grown_ = 0;
};

int temporary_file(const char* name, bool keep) {
  const int fd = ::open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  std::vector<char> bytes(kFilePages * kPageSize);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i / 97 % 251 + 1);
  if (::write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) ::abort();
  if (!keep) ::unlink(name);
  return fd;
}

std::function<int(ChildEnd)> play(std::string path) {
  return [path = std::move(path)](ChildEnd end) -> int {
    // On one CPU: its number stands in the rseq area, and this test compares every byte.
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(static_cast<unsigned>(::sched_getcpu()), &cpus);
    ::sched_setaffinity(0, sizeof cpus, &cpus);
    const int memfd = ::memfd_create("play", MFD_CLOEXEC);
    if (::ftruncate(memfd, static_cast<off_t>(kFilePages * kPageSize)) != 0) return 1;
    Mutator mutator(temporary_file(path.c_str(), true), memfd, temporary_file((path + ".gone").c_str(), false));
    end.say('r');
    for (;;) {
      unsigned seed = 0;
      for (int i = 0; i < 4; ++i) seed = seed << 8 | static_cast<unsigned char>(end.hear());
      mutator.run(seed);
      end.say('d');
    }
  };
}

// ---- the parent's side

using Page = std::vector<std::byte>;
using Contents = std::map<std::uint64_t, Page>;  // pages that differ from their backing

struct Image {
  model::Memory memory;
  std::string maps;
  Contents contents;
  tracking::PageMap pages;
};

// Attributes only: names that the kernel derives say nothing. `all_marks`: those too that only smaps tells and nothing
// restates.
std::vector<Mapping> attributes(const model::Memory& memory, bool all_marks, bool with_objects) {
  std::vector<Mapping> mappings = memory.mappings;
  for (auto& mapping : mappings) {
    if (!mapping.has_object() && mapping.source != MappingSource::kernel) mapping.name = model::given_name(mapping);
    if (!all_marks) mapping.marks.huge_page = mapping.marks.no_huge_page = mapping.marks.no_reserve = false;
    if (!with_objects && mapping.source == MappingSource::shared_anonymous) mapping.inode = 0;
  }
  return model::merged(std::move(mappings));
}

std::vector<std::string> lines(const std::vector<Mapping>& mappings) {
  std::vector<std::string> result;
  for (const auto& mapping : mappings) {
    const auto& m = mapping.marks;
    result.push_back(
        fmt::format("{} {:x} {}:{} dc{:d} dd{:d} wf{:d} mg{:d} hg{:d} nh{:d} sr{:d} rr{:d} lo{:d} gd{:d} nr{:d} mw{:d}",
                    model::mapping_text(mapping), mapping.offset, mapping.device, mapping.inode, m.dont_fork,
                    m.dont_dump, m.wipe_on_fork, m.mergeable, m.huge_page, m.no_huge_page, m.sequential, m.random,
                    m.locked, m.grows_down, m.no_reserve, m.may_write));
  }
  return result;
}

std::string only_in(const std::vector<std::string>& these, const std::vector<std::string>& others) {
  std::string result;
  for (const auto& line : these) {
    if (std::ranges::find(others, line) == others.end()) result += line + "\n";
  }
  return result;
}

// What earlier tests have freed: the child would inherit it, and all of a child's memory is read and compared.
std::string with_a_small_heap(std::string path) {
  ::malloc_trim(0);
  return path;
}

class Subject {
 public:
  explicit Subject(bool hold)
      : path_(fmt::format("/tmp/relive_memory_test.{}", ::getpid())),
        hold_(hold),
        child_(play(with_a_small_heap(path_))) {}
  ~Subject() {
    ::unlink(path_.c_str());
    if (store_here_ != nullptr) ::munmap(store_here_, kStoreBytes);  // the next child shall not have it
  }

  void mutate(unsigned seed) {
    for (int shift = 24; shift >= 0; shift -= 8) child_.say(static_cast<char>(seed >> shift));
    ASSERT_EQ(child_.hear(), 'd');
    // Registers are not taken back here: the child must stand where it stood, in read(2).
    const auto where = [&] { return task::read_proc(child_.pid(), "syscall").value_or("gone"); };
    while (where().starts_with("running") || where().starts_with("1 ")) ::usleep(50);
  }

  Result<void> snapshot() {
    auto task = RELIVE_TRY(FrozenTask::freeze(child_.pid()));
    auto taken = [&]() -> Result<void> {
      if (!session_) session_.emplace(RELIVE_TRY(Session::infect(task)));
      auto visit = RELIVE_TRY(Visit::begin(task, *session_));
      if (store_there_.value == 0) RELIVE_TRY(map_store(visit));
      wanted_ = RELIVE_TRY(look(visit));
      std::vector<tracking::PageRun> runs;
      std::uint64_t slot = 0;
      for (const auto& [address, page] : wanted_.contents) {
        std::memcpy(store_here_ + slot * kPageSize, page.data(), kPageSize);
        runs.push_back({address, 1, slot++});
      }
      wanted_.pages = {};
      wanted_.pages.replace({0, ~0xfffULL}, runs);
      holds_ = {};
      if (hold_) RELIVE_TRY(capture::hold_mapped_files(visit, wanted_.memory, holds_));
      return {};
    }();
    task.resume();
    return taken;
  }

  // Prepares and undoes, prepares again and commits. `again`: with marks carried over instead of read.
  Result<void> roll_back(bool again) {
    auto task = RELIVE_TRY(FrozenTask::freeze(child_.pid()));
    auto outcome = [&]() -> Result<void> {
      const Image before = RELIVE_TRY(with_visit<Image>(task, [&](Visit& visit) { return look(visit); }));
      RELIVE_TRY(with_visit<void>(task, [&](Visit& visit) { return work(visit, before, again, false); }));
      const Image after = RELIVE_TRY(with_visit<Image>(task, [&](Visit& visit) { return look(visit); }));
      expect_equal(after, before, true, true, "undone");
      RELIVE_TRY(with_visit<void>(task, [&](Visit& visit) { return work(visit, before, again, true); }));
      const Image now = RELIVE_TRY(with_visit<Image>(task, [&](Visit& visit) { return look(visit); }));
      expect_equal(now, wanted_, !again, hold_, "rolled back");
      return {};
    }();
    task.resume();
    return outcome;
  }

  // Prepares with a fault at each step in turn, until none is left. Returns how many there are.
  Result<std::uint64_t> fail_everywhere() {
    auto task = RELIVE_TRY(FrozenTask::freeze(child_.pid()));
    auto outcome = [&]() -> Result<std::uint64_t> {
      const Image before = RELIVE_TRY(with_visit<Image>(task, [&](Visit& visit) { return look(visit); }));
      for (std::uint64_t at = 0;; ++at) {
        arm_faults({FaultPlan::Action::fail, at});
        const auto failed = with_visit<void>(task, [&](Visit& visit) { return work(visit, before, false, false); });
        arm_faults({});
        if (failed) return at;
        if (failed.error().kind != ErrorKind::injected) return std::unexpected(failed.error());
        const Image after = RELIVE_TRY(with_visit<Image>(task, [&](Visit& visit) { return look(visit); }));
        expect_equal(after, before, true, true, fmt::format("failed at {}", at));
      }
    }();
    task.resume();
    return outcome;
  }

  [[nodiscard]] const Child& child() const { return child_; }
  Session& session() { return *session_; }

 private:
  template <class T>
  Result<T> with_visit(FrozenTask& task, const std::function<Result<T>(Visit&)>& act) {
    auto visit = RELIVE_TRY(Visit::begin(task, *session_));
    return act(visit);
  }

  Result<void> map_store(Visit& visit) {
    constexpr std::uint64_t bytes = kStoreBytes;
    const UniqueFd memfd(::memfd_create("store", MFD_CLOEXEC));
    if (::ftruncate(memfd.get(), bytes) != 0) return fail_errno("ftruncate", "store");
    store_here_ = static_cast<std::byte*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0));
    const auto spare = RELIVE_TRY(visit.spare_descriptor());
    RELIVE_TRY(visit.give(memfd.get(), spare));
    store_there_ = RELIVE_TRY(visit.spare_range(bytes));
    RELIVE_TRY(visit.syscall("map the store", SYS_mmap,
                             {store_there_.value, bytes, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE,
                              static_cast<std::uint64_t>(spare.value), 0}));
    RELIVE_TRY(visit.syscall("close", SYS_close, {static_cast<std::uint64_t>(spare.value)}));
    session_->add_own_range({store_there_.value, store_there_.value + bytes});
    return {};
  }

  // Everything there is to see.
  Result<Image> look(Visit& visit) {
    Image image;
    image.memory = RELIVE_TRY(capture::read_memory(visit));
    image.maps = RELIVE_TRY(capture::read_maps(visit));
    for (const auto& mapping : image.memory.mappings) {
      const bool ours = kPlaygroundRange.contains(mapping.range.begin);
      if (mapping.source == MappingSource::kernel || (!ours && !mapping.writable)) continue;
      Page bytes(mapping.range.size());
      if (!visit.task().read(model::TaskAddress{mapping.range.begin}, bytes)) {  // it goes beyond the end of its file
        bytes.resize(kPageSize);
        RELIVE_TRY(visit.task().read(model::TaskAddress{mapping.range.begin}, bytes));
      }
      for (std::uint64_t at = 0; at < bytes.size(); at += kPageSize) {
        Page page(bytes.begin() + static_cast<long>(at), bytes.begin() + static_cast<long>(at + kPageSize));
        if (is_backing(mapping, page)) continue;
        image.contents.emplace(mapping.range.begin + at, std::move(page));
      }
    }
    return image;
  }

  // As tracking/populated.h has it. The pages of private mappings of files all count as written.
  static bool is_backing(const Mapping& mapping, const Page& page) {
    static const Page zeros(kPageSize);
    return (!mapping.has_object() || mapping.shared) && page == zeros;
  }

  Result<void> work(Visit& visit, const Image& before, bool again, bool commit_too) {
    const model::Memory living =
        again ? RELIVE_TRY(capture::read_memory_again(visit, wanted_.memory, wanted_.maps, before.maps))
              : before.memory;
    const auto plan = diff::plan_memory(wanted_.memory, living);
    EXPECT_THAT(plan.refusals, IsEmpty());
    if (!again) {
      EXPECT_EQ(plan.differences.empty(), attributes(wanted_.memory, true, true) == attributes(living, true, true) &&
                                              wanted_.memory.layout == living.layout);
    }
    std::vector<AddressRange> changed;
    for (const auto& [address, page] : before.contents) {
      const auto was = wanted_.contents.find(address);
      if (was == wanted_.contents.end() || was->second != page) changed.push_back({address, address + kPageSize});
    }
    for (const auto& [address, page] : wanted_.contents) {
      if (!before.contents.contains(address)) changed.push_back({address, address + kPageSize});
    }
    const auto pages =
        tracking::plan_pages(wanted_.pages, wanted_.pages, tracking::normalize(changed), plan.kept, plan.made);
    parasite::Program commit;
    parasite::Program cleanup;
    std::vector<std::string> notes;
    apply::Workshop workshop{
        .visit = visit, .holds = holds_, .files = files_, .commit = commit, .cleanup = cleanup, .notes = notes};
    RELIVE_TRY(apply::prepare_memory(workshop, plan, pages,
                                     [&](tracking::Slot slot) { return store_there_ + slot * kPageSize; }));
    if (!commit_too) return {};
    RELIVE_TRY(visit.run(commit));
    RELIVE_TRY(visit.run(cleanup));
    visit.arena().control().undo.count = 0;
    return {};
  }

  static void expect_equal(const Image& now, const Image& wanted, bool all_marks, bool with_objects,
                           std::string_view when) {
    EXPECT_EQ(only_in(lines(attributes(now.memory, all_marks, with_objects)),
                      lines(attributes(wanted.memory, all_marks, with_objects))),
              "")
        << when << ": surplus";
    EXPECT_EQ(only_in(lines(attributes(wanted.memory, all_marks, with_objects)),
                      lines(attributes(now.memory, all_marks, with_objects))),
              "")
        << when << ": missing";
    EXPECT_EQ(now.memory.layout, wanted.memory.layout) << when;
    EXPECT_EQ(now.memory.locked_bytes, wanted.memory.locked_bytes) << when;
    EXPECT_EQ(now.contents.size(), wanted.contents.size()) << when;
    for (const auto& [address, page] : wanted.contents) {
      const auto found = now.contents.find(address);
      EXPECT_TRUE(found != now.contents.end() && found->second == page) << when << fmt::format(": page {:x}", address);
    }
  }

  std::string path_;
  bool hold_;
  Child child_;
  std::optional<Session> session_;
  capture::Holds holds_;
  capture::FileHolds files_;
  Image wanted_;
  std::byte* store_here_ = nullptr;
  model::TaskAddress store_there_;
};

// Said at once, so that a run that does not come to its end can be repeated, too: with RELIVE_SEED.
unsigned random_base() {
  const char* given = std::getenv("RELIVE_SEED");
  const unsigned base =
      given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
  fmt::print("base {}\n", base);
  (void)std::fflush(stdout);
  return base;
}

void there_and_back(Subject& subject, unsigned base, unsigned cases, bool may_be_refused) {
  for (unsigned round = 0; round < cases; ++round) {
    const unsigned seed = base + round;
    SCOPED_TRACE(::testing::Message() << "base " << base << " round " << round);
    if (round % 5 == 0) {
      for (unsigned i = 0; i < 3; ++i) subject.mutate(seed * 31 + i);
      const auto taken = subject.snapshot();
      ASSERT_TRUE(taken.has_value()) << taken.error().text();
    }
    subject.mutate(seed * 7919 + 13);
    const auto back = subject.roll_back(round % 2 == 1);
    if (may_be_refused && !back && back.error().kind == ErrorKind::refused) continue;
    ASSERT_TRUE(back.has_value()) << back.error().text();
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
}

// /proc/PID/map_files may be opened with CAP_CHECKPOINT_RESTORE only; without it some mapped objects cannot be held.
bool everything_can_be_held() {
  const auto maps = capture::parse_maps(task::read_proc(model::Pid{::getpid()}, "maps").value()).value();
  for (const auto& mapping : maps) {
    if (mapping.source != MappingSource::file) continue;
    const auto name = fmt::format("map_files/{:x}-{:x}", mapping.range.begin, mapping.range.end);
    return task::open_proc(model::Pid{::getpid()}, name, O_RDONLY).has_value();
  }
  return false;
}

TEST(MemoryTest, WhateverAProgramDidToItsMemoryIsTakenBack) {
  const bool all = everything_can_be_held();
  Subject subject(all);
  there_and_back(subject, random_base(), 200, !all);
}

TEST(MemoryTest, WithoutHoldsWhatCannotBeTakenBackIsRefusedByName) {
  Subject subject(false);
  there_and_back(subject, random_base(), 40, true);
}

bool kernel_seals() {
  void* page = ::mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool seals = ::syscall(462, page, 0, 0) == 0;
  ::munmap(page, kPageSize);
  return seals;
}

TEST(MemoryTest, SealedMemoryInTheWayIsFoundOutInTime) {
  if (!kernel_seals()) GTEST_SKIP() << "mseal(2) is in Linux 6.10 and later";
  Subject subject(true);
  ASSERT_TRUE(subject.snapshot().has_value());
  subject.mutate(kSeal);
  const auto back = subject.roll_back(true);  // with marks carried over: nobody has seen the seal
  ASSERT_FALSE(back.has_value());
  EXPECT_EQ(back.error().kind, ErrorKind::refused) << back.error().text();
  EXPECT_THAT(back.error().text(), ::testing::HasSubstr("sealed")) << back.error().text();
}

TEST(MemoryTest, ATruncatedFileIsFoundOutInTime) {
  Subject subject(true);
  subject.mutate(kShow);
  ASSERT_TRUE(subject.snapshot().has_value());
  subject.mutate(kTruncate);
  const auto back = subject.roll_back(true);
  ASSERT_FALSE(back.has_value());
  EXPECT_EQ(back.error().kind, ErrorKind::refused) << back.error().text();
  EXPECT_THAT(back.error().text(), ::testing::HasSubstr("truncated")) << back.error().text();
}

// On a processor with protection keys it has one that only the kernel sets (pkeys(7)).
TEST(MemoryTest, ExecuteOnlyMemoryComesBack) {
  Subject subject(true);
  subject.mutate(kExecuteOnlyBehind);
  ASSERT_TRUE(subject.snapshot().has_value());
  for (const bool again : {false, true}) {
    subject.mutate(kExecuteOnlyBefore);
    const auto back = subject.roll_back(again);
    ASSERT_TRUE(back.has_value()) << back.error().text();
  }
}

TEST(MemoryTest, AFailureAtAnyStepLeavesTheTaskAsItWas) {
  if (!everything_can_be_held()) GTEST_SKIP() << "a random change may be refused without CAP_CHECKPOINT_RESTORE";
  Subject subject(true);
  const unsigned base = random_base();
  SCOPED_TRACE(::testing::Message() << "base " << base);
  for (unsigned i = 0; i < 4; ++i) subject.mutate(base + i);
  const auto taken = subject.snapshot();
  ASSERT_TRUE(taken.has_value()) << taken.error().text();
  for (unsigned i = 4; i < 8; ++i) subject.mutate(base + i);
  const auto steps = subject.fail_everywhere();
  ASSERT_TRUE(steps.has_value()) << steps.error().text();
  EXPECT_GT(*steps, 0U);
  const auto back = subject.roll_back(false);
  ASSERT_TRUE(back.has_value()) << back.error().text();
}

}  // namespace
}  // namespace relive
