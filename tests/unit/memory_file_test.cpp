#include "capture/memory_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "diff/descriptors.h"
#include "tests/unit/texts.h"

namespace relive {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

UniqueFd memfd(off_t size, const std::vector<std::pair<off_t, std::string>>& pieces = {}) {
  UniqueFd fd(::memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(fd.get(), size), 0);
  for (const auto& [at, text] : pieces)
    EXPECT_EQ(::pwrite(fd.get(), text.data(), text.size(), at), static_cast<ssize_t>(text.size()));
  return fd;
}
model::MemoryFile read(const UniqueFd& fd) { return capture::read_memory_file(fd.get()).value(); }

TEST(MemoryFileTest, TheDigestTellsContentsAndPlacesApart) {
  const auto one = read(memfd(100000, {{5, "abc"}, {70000, "d"}}));
  EXPECT_EQ(one.size, 100000);
  EXPECT_EQ(one.digest, read(memfd(100000, {{5, "abc"}, {70000, "d"}})).digest);
  EXPECT_NE(one.digest, read(memfd(100000, {{5, "abd"}, {70000, "d"}})).digest);
  EXPECT_NE(one.digest, read(memfd(100000, {{5, "abc"}, {70001, "d"}})).digest);
  EXPECT_NE(one.digest, read(memfd(100000, {{4101, "abc"}, {70000, "d"}})).digest);
  EXPECT_EQ(one.digest, read(memfd(100000, {{5, "abc"}, {70000, "d"}, {9000, std::string(20000, '\0')}})).digest)
      << "zeros are a hole";
}

TEST(MemoryFileTest, ACopyHoldsTheSameAndReadingMovesNothing) {
  const UniqueFd fd = memfd(100001, {{5, "abc"}, {70000, "d"}});
  ASSERT_EQ(::lseek(fd.get(), 7, SEEK_SET), 7);
  const auto file = read(fd);
  const auto copy = capture::copy_memory_file(fd.get(), file);
  ASSERT_TRUE(copy.has_value());
  EXPECT_EQ(read(*copy).digest, file.digest);
  EXPECT_EQ(read(*copy).size, file.size);
  EXPECT_EQ(::lseek(fd.get(), 0, SEEK_CUR), 7);
  ASSERT_EQ(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  EXPECT_FALSE(capture::copy_memory_file(fd.get(), read(fd)).value().valid());
}

TEST(MemoryFileTest, WhatIsTooLargeOrSealedForTheFutureIsNamed) {
  EXPECT_THAT(capture::why_not({.seals = 0, .size = 1, .resident = 4096, .digest = 0}), IsEmpty());
  EXPECT_THAT(capture::why_not({.seals = 0, .size = 1, .resident = std::uint64_t{70} << 20, .digest = 0}),
              HasSubstr("70 MiB"));
  EXPECT_THAT(capture::why_not({.seals = 0x10, .size = 1, .resident = 0, .digest = 0}), HasSubstr("FUTURE_WRITE"));
}

model::DescriptorTable table(const model::MemoryFile& memory, std::optional<std::size_t> same_as = {}) {
  return {.descriptors = {{.fd = {3}}},
          .open_files = {{.status_flags = O_RDWR,
                          .object = model::RegularFile{.path = "/memfd:x", .identity = {1, 2}, .memory = memory},
                          .same_as = same_as}}};
}

TEST(MemoryFileTest, ContentsArePutBackWhereTheyDiffer) {
  const auto wanted = table({.seals = 0, .size = 10, .resident = 4096, .digest = 5});
  EXPECT_THAT(texts(diff::plan_descriptors(wanted, table({.seals = 0, .size = 10, .resident = 0, .digest = 5}, 0))),
              IsEmpty());
  const auto plan = diff::plan_descriptors(wanted, table({.seals = 0, .size = 11, .resident = 0, .digest = 6}, 0));
  EXPECT_THAT(texts(plan), ElementsAre("file 0: put its contents back"));
  EXPECT_THAT(plan.differences, SizeIs(2));
  EXPECT_THAT(diff::plan_descriptors(wanted, table({.seals = 2, .size = 10, .resident = 0, .digest = 5}, 0)).refusals,
              SizeIs(1));
}

}  // namespace
}  // namespace relive
