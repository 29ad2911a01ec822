// A large descriptor table: duplicates are told from look-alikes, with few comparisons.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <bit>

#include "capture/descriptors.h"
#include "capture/kcmp.h"
#include "parasite/session.h"
#include "task/frozen_task.h"
#include "tests/live/child.h"

namespace relive {
namespace {

constexpr int kEach = 240;
constexpr int kFirst = 20;

// kEach open files of each of three kinds that look alike; every third has a second number. A number's place says what
// stands there: (fd - kFirst) % 4 is the kind, 3 being a second number of kind (fd - kFirst) / 4 % 3 before it.
int run(testing::ChildEnd end) {
  for (int i = 0; i < kEach; ++i) {
    const int made[3] = {::open("/proc/self/exe", O_RDONLY), ::eventfd(0, 0), ::open("/dev/null", O_RDWR)};
    for (int kind = 0; kind < 3; ++kind) {
      if (made[kind] < 0 || ::dup2(made[kind], kFirst + 4 * i + kind) < 0) return 1;
    }
    if (::dup2(made[i % 3], kFirst + 4 * i + 3) < 0) return 1;
    for (const int fd : made) ::close(fd);
  }
  end.say('y');
  while (end.hear() != '\0') {
  }
  return 0;
}

void expect_right(const model::DescriptorTable& table) {
  std::map<int, std::size_t> file_of;
  for (const model::Descriptor& descriptor : table.descriptors) file_of[descriptor.fd.value] = descriptor.open_file;
  std::map<std::size_t, int> numbers;
  for (int i = 0; i < kEach; ++i) {
    EXPECT_EQ(file_of.at(kFirst + 4 * i + 3), file_of.at(kFirst + 4 * i + i % 3)) << "a duplicate, taken for another";
    for (int kind = 0; kind < 3; ++kind) ++numbers[file_of.at(kFirst + 4 * i + kind)];
  }
  for (const auto& [file, times] : numbers) EXPECT_EQ(times, 1) << "look-alikes, taken for duplicates";
}

TEST(ManyDescriptorsTest, AreToldApartWithFewComparisons) {
  const testing::Child child(run);
  ASSERT_EQ(child.first_word(), 'y');
  auto task = task::FrozenTask::freeze(child.pid());
  ASSERT_TRUE(task.has_value()) << task.error().text();
  auto session = parasite::Session::infect(*task);
  ASSERT_TRUE(session.has_value()) << session.error().text();
  {
    auto visit = parasite::Visit::begin(*task, *session);
    ASSERT_TRUE(visit.has_value()) << visit.error().text();

    std::uint64_t before = capture::kcmp_calls();
    const auto snapshot = capture::read_descriptors(std::array{&*visit}, nullptr, nullptr);
    ASSERT_TRUE(snapshot.has_value()) << snapshot.error().text();
    expect_right(*snapshot);
    const std::uint64_t n = snapshot->descriptors.size();
    ASSERT_GT(n, std::uint64_t{4} * kEach);
    EXPECT_LE(capture::kcmp_calls() - before, n * static_cast<unsigned>(std::bit_width(n)));

    capture::FileHolds holds;
    ASSERT_TRUE(capture::hold_descriptors(std::array{&*visit}, *snapshot, holds));
    before = capture::kcmp_calls();
    const auto living = capture::read_descriptors(std::array{&*visit}, &*snapshot, &holds);
    ASSERT_TRUE(living.has_value()) << living.error().text();
    expect_right(*living);
    for (const model::Descriptor& descriptor : living->descriptors) {
      const auto& file = living->open_files[descriptor.open_file];
      EXPECT_TRUE(file.same_as.has_value() || !model::may_be_held(file)) << descriptor.fd.value;
    }
    EXPECT_LE(capture::kcmp_calls() - before, n * static_cast<unsigned>(std::bit_width(n)));
  }
  task->resume();
}

}  // namespace
}  // namespace relive
