#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "diff/descriptors.h"

namespace relive {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

model::DescriptorTable pipe_with(std::vector<model::PipePiece> pieces, bool living) {
  const auto end = [&](bool write_end, std::optional<std::size_t> same_as) {
    model::PipeEnd pipe{.identity = {1, 2}, .write_end = write_end, .outside = false, .capacity = 65536, .bytes = {}};
    if (!write_end) {
      pipe.bytes.resize(8);
      pipe.pieces = pieces;
    }
    return model::OpenFile{.status_flags = static_cast<std::uint32_t>(O_DIRECT | (write_end ? O_WRONLY : O_RDONLY)),
                           .object = pipe,
                           .same_as = same_as};
  };
  const auto at = [&](std::size_t file) { return living ? std::optional(file) : std::nullopt; };
  return {.descriptors = {{.fd = {3}}, {.fd = {4}, .open_file = 1}},
          .open_files = {end(false, at(0)), end(true, at(1))}};
}

TEST(PipePlanTest, TheSameBytesInOtherPacketsAreNotTheSame) {
  const std::vector<model::PipePiece> two{{.bytes = 3, .packet = true}, {.bytes = 5, .packet = true}};
  const std::vector<model::PipePiece> one{{.bytes = 8, .packet = true}};
  EXPECT_THAT(diff::plan_descriptors(pipe_with(two, false), pipe_with(two, true)).operations, IsEmpty());
  const auto plan = diff::plan_descriptors(pipe_with(two, false), pipe_with(one, true));
  std::vector<std::string> texts;
  for (const auto& operation : plan.operations) texts.push_back(diff::text(operation));
  EXPECT_THAT(texts, ElementsAre("pipe 4 -> 3: put its unread bytes back"));
}

}  // namespace
}  // namespace relive
