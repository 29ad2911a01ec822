#include <gtest/gtest.h>
#include <sys/sysmacros.h>

#include <random>

#include "capture/memory.h"

namespace relive::capture {
namespace {

using model::Mapping;
using model::MappingSource;

constexpr std::string_view kMaps =
    "55d1c0a00000-55d1c0a28000 r--p 00000000 08:01 1234                       /usr/bin/redis server\n"
    "55d1c0a28000-55d1c0a30000 rw-p 00028000 08:01 1234                       /usr/bin/redis server\n"
    "55d1c1000000-55d1c1021000 rw-p 00000000 00:00 0                          [heap]\n"
    "7f0000000000-7f0000021000 rw-p 00000000 00:00 0 \n"
    "7f0000100000-7f0000200000 rw-s 00010000 00:01 77                         /dev/zero (deleted)\n"
    "7f0000200000-7f0000201000 rw-s 00000000 00:01 78                         /memfd:store (deleted)\n"
    "7f0000300000-7f0000301000 rw-s 00000000 00:01 32768                      /SYSV00000000 (deleted)\n"
    "7f0000400000-7f0000401000 r--p 00000000 fe:00 9                          /tmp/gone (deleted)\n"
    "7f0000500000-7f0000501000 rw-s 00000000 00:0f 5                          anon_inode:[io_uring]\n"
    "7f0000600000-7f0000601000 rw-s 00000000 00:05 5                          /dev/dri/card0\n"
    "7f0000700000-7f0000701000 rw-s 00000000 00:19 5                          /dev/shm/x\n"
    "7f0000800000-7f0000801000 rw-p 00000000 00:00 0                          [anon:cache]\n"
    "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]\n"
    "7ffd00100000-7ffd00102000 r-xp 00000000 00:00 0                          [vdso]\n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

TEST(MapsTextTest, EveryLineIsOneMapping) {
  const auto mappings = parse_maps(kMaps).value();
  ASSERT_EQ(mappings.size(), 15U);
  EXPECT_EQ(mappings[1].range, (AddressRange{0x55d1c0a28000, 0x55d1c0a30000}));
  EXPECT_EQ(mappings[1].name, "/usr/bin/redis server");
  EXPECT_EQ(mappings[1].offset, 0x28000U);
  EXPECT_EQ(mappings[1].device, makedev(8, 1));
  EXPECT_EQ(mappings[1].inode, 1234U);
  EXPECT_TRUE(mappings[1].writable && mappings[1].readable && !mappings[1].executable && !mappings[1].shared);
  EXPECT_TRUE(mappings[4].shared);
}

TEST(MapsTextTest, TheNameTellsTheSource) {
  const auto mappings = parse_maps(kMaps).value();
  const MappingSource expected[] = {MappingSource::file,
                                    MappingSource::file,
                                    MappingSource::anonymous,
                                    MappingSource::anonymous,
                                    MappingSource::shared_anonymous,
                                    MappingSource::memfd,
                                    MappingSource::sysv,
                                    MappingSource::deleted_file,
                                    MappingSource::device,
                                    MappingSource::device,
                                    MappingSource::file,
                                    MappingSource::anonymous,
                                    MappingSource::anonymous,
                                    MappingSource::kernel,
                                    MappingSource::kernel};
  for (std::size_t i = 0; i < mappings.size(); ++i) EXPECT_EQ(mappings[i].source, expected[i]) << mappings[i].name;
  EXPECT_EQ(model::given_name(mappings[11]), "cache");
  EXPECT_EQ(model::given_name(mappings[12]), "");
}

TEST(SmapsTextTest, FlagsBecomeMarks) {
  const auto mappings =
      parse_smaps(
          "7f0000000000-7f0000021000 rw-p 00000000 00:00 0 \n"
          "Size:                132 kB\n"
          "VmFlags: rd wr mr mw me lo lf dc dd wf mg hg nr sd \n"
          "7f0000021000-7f0000022000 r--s 00000000 00:01 77                         /dev/zero (deleted)\n"
          "ProtectionKey:         3\n"
          "VmFlags: rd mr sr gd sl\n")
          .value();
  ASSERT_EQ(mappings.size(), 2U);
  const auto& marks = mappings[0].marks;
  EXPECT_TRUE(marks.locked && marks.lock_on_fault && marks.dont_fork && marks.dont_dump && marks.wipe_on_fork &&
              marks.mergeable && marks.huge_page && marks.no_reserve && marks.may_write);
  EXPECT_FALSE(marks.no_huge_page || marks.random || marks.sequential || marks.sealed);
  EXPECT_EQ(mappings[1].protection_key, 3U);
  EXPECT_TRUE(mappings[1].marks.sequential && mappings[1].marks.grows_down && mappings[1].marks.sealed &&
              !mappings[1].marks.may_write);
}

TEST(MapsTextTest, WhatIsNoMapsTextIsAnError) {
  for (const std::string_view text :
       {"x\n", "10-20 rw-p 0 0:0 0\n", "1000-1000 rw-p 0 0:0 0\n", "2000-1000 rw-p 0 0:0 0\n",
        "1000-2000 rwxq 0 0:0 0\n", "1000-2000 rw 0 0:0 0\n", "1000-2000 rw-p\n",
        "1000-3000 rw-p 0 0:0 0\n2000-4000 rw-p 0 0:0 0\n", "\n", "1000-2000 rw-p 0 0:0 99999999999999999999999\n"}) {
    EXPECT_FALSE(parse_maps(text).has_value()) << text;
  }
  EXPECT_FALSE(parse_smaps("VmFlags: rd\n").has_value());
  EXPECT_TRUE(parse_maps("").value().empty());
}

TEST(MapsTextTest, DamagedTextNeverBreaksTheParser) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const std::string good = std::string(kMaps) + "VmFlags: rd wr\nProtectionKey: 1\n";
  for (int round = 0; round < 20000; ++round) {
    std::string text = good.substr(0, random() % good.size());
    for (unsigned i = random() % 4; i > 0 && !text.empty(); --i)
      text[random() % text.size()] = static_cast<char>(random());
    for (const auto& parsed : {parse_maps(text), parse_smaps(text)}) {
      if (!parsed) continue;
      std::uint64_t end = 0;
      for (const auto& mapping : *parsed) {
        EXPECT_LE(end, mapping.range.begin);
        EXPECT_LT(mapping.range.begin, mapping.range.end);
        end = mapping.range.end;
      }
    }
  }
}

TEST(LayoutTextTest, TheFieldsOfStat) {
  std::string stat = "12 (a) b) S";
  for (int field = 4; field <= 52; ++field) stat += " " + std::to_string(field * 1000);
  const auto layout = parse_layout(stat).value();
  EXPECT_EQ(layout.start_code, 26000U);
  EXPECT_EQ(layout.start_stack, 28000U);
  EXPECT_EQ(layout.start_brk, 47000U);
  EXPECT_EQ(layout.env_end, 51000U);
  EXPECT_FALSE(parse_layout("12 (a) S 1 2").has_value());
}

TEST(WithoutTest, CutsWhatLiesPartlyInside) {
  const auto mappings = parse_maps("1000-5000 rw-s 00001000 00:01 7 /f\n6000-7000 rw-p 0 0:0 0\n").value();
  const auto rest = without(mappings, {{0x2000, 0x3000}, {0x6000, 0x7000}, {0x9000, 0xa000}});
  ASSERT_EQ(rest.size(), 2U);
  EXPECT_EQ(rest[0].range, (AddressRange{0x1000, 0x2000}));
  EXPECT_EQ(rest[1].range, (AddressRange{0x3000, 0x5000}));
  EXPECT_EQ(rest[1].offset, 0x3000U);
}

TEST(CarryMarksTest, WhereTheObjectIsTheSame) {
  auto before = parse_maps("1000-5000 rw-p 0 0:0 0\n8000-9000 rw-s 0 0:1 7 /dev/zero (deleted)\n").value();
  before[0].marks.dont_fork = true;
  before[1].marks.random = true;
  const auto now = carry_marks(
      parse_maps("0-1000 rw-p 0 0:0 0\n1000-7000 r--p 0 0:0 0\n8000-9000 rw-s 0 0:1 8 /dev/zero (deleted)\n").value(),
      before);
  ASSERT_EQ(now.size(), 4U);
  EXPECT_FALSE(now[0].marks.dont_fork);
  EXPECT_EQ(now[1].range, (AddressRange{0x1000, 0x5000}));
  EXPECT_TRUE(now[1].marks.dont_fork);
  EXPECT_FALSE(now[2].marks.dont_fork);
  EXPECT_FALSE(now[3].marks.random) << "another object lies there now";
}

TEST(MergedTest, LinesThatContinueEachOtherAreOneMapping) {
  const auto mappings =
      parse_maps(
          "1000-2000 rw-p 0 0:0 0\n2000-3000 rw-p 0 0:0 0 [heap]\n3000-4000 r--p 0 0:0 0\n"
          "4000-5000 r--s 00000000 0:1 7 /f\n5000-6000 r--s 00001000 0:1 7 /f\n6000-7000 r--s 00001000 0:1 7 /f\n")
          .value();
  const auto whole = model::merged(mappings);
  ASSERT_EQ(whole.size(), 4U);
  EXPECT_EQ(whole[0].range, (AddressRange{0x1000, 0x3000}));
  EXPECT_EQ(whole[2].range, (AddressRange{0x4000, 0x6000}));
}

}  // namespace
}  // namespace relive::capture
