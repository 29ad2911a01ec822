// What a terminal's differences are, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fcntl.h>
#include <termios.h>

#include "diff/descriptors.h"
#include "diff/terminals.h"
#include "tests/unit/texts.h"

namespace relive {
namespace {

using model::OpenFile;
using model::RemoteFd;
using model::Terminal;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

Terminal slave(std::uint64_t number = 3) {
  Terminal terminal;
  terminal.path = "/dev/pts/3";
  terminal.identity = {20, number + 3};
  terminal.created = 1;
  terminal.device = (136U << 8) + number;
  terminal.window = {.rows = 24, .columns = 80};
  return terminal;
}
Terminal master(std::uint64_t number = 3) {
  Terminal terminal = slave(number);
  terminal.path = "/dev/ptmx";
  terminal.identity = {5, 2};
  terminal.master = true;
  return terminal;
}
model::DescriptorTable table(const std::vector<std::pair<int, Terminal>>& terminals, bool living) {
  model::DescriptorTable out;
  for (const auto& [fd, terminal] : terminals) {
    OpenFile file{.status_flags = O_RDWR, .object = terminal};
    if (living) file.same_as = out.open_files.size();
    out.descriptors.push_back({RemoteFd{fd}, false, out.open_files.size()});
    out.open_files.push_back(file);
  }
  return out;
}

TEST(TerminalTest, NothingChangedNeedsNothing) {
  const auto both = table({{0, slave()}}, false);
  EXPECT_THAT(texts(diff::plan_descriptors(both, table({{0, slave()}}, true))), IsEmpty());
}

TEST(TerminalTest, WhatChangedIsNamedAndPutRight) {
  Terminal now = slave();
  now.modes[12] = std::byte{ICANON};
  now.modes[20] = std::byte{1};
  now.window.columns = 100;
  now.exclusive = true;
  const auto plan = diff::plan_descriptors(table({{0, slave()}}, false), table({{0, now}}, true));
  EXPECT_THAT(texts(plan), ElementsAre("terminal 0: put right what it holds"));
  EXPECT_THAT(diff::changes(slave(), now), ElementsAre("local modes 0 -> 02", "control characters changed",
                                                       "window 80x24 -> 100x24", "exclusive mode off -> on"));
}

TEST(TerminalTest, InTheBackgroundModesAndWindowAreSomebodyElses) {
  Terminal then = slave();
  then.controlling = true;
  Terminal now = then;
  now.modes[0] = std::byte{1};
  now.window.rows = 9;
  now.foreground = true;
  EXPECT_THAT(diff::changes(then, now), IsEmpty());
  then.foreground = true;
  EXPECT_THAT(diff::changes(then, now), SizeIs(2));
  now.foreground = false;
  EXPECT_THAT(diff::changes(then, now), SizeIs(3));
}

TEST(TerminalTest, UnreadInputStaysUnlessBothEndsAreTheTasksOwn) {
  Terminal now = slave();
  now.unread = 7;
  EXPECT_THAT(diff::changes(slave(), now), IsEmpty());
  EXPECT_THAT(model::not_in_a_snapshot(now), IsEmpty());
  Terminal inside = slave();
  now.inside = inside.inside = true;
  EXPECT_THAT(diff::changes(inside, now), ElementsAre("7 unread bytes since"));
  EXPECT_THAT(model::not_in_a_snapshot(now), ElementsAre(HasSubstr("7 unread bytes")));
}

TEST(TerminalTest, TheModesOfASlaveOutsideStay) {
  Terminal now = master();
  now.modes[0] = std::byte{1};
  now.window.rows = 30;
  now.locked = true;
  EXPECT_THAT(diff::changes(master(), now), ElementsAre("window 80x24 -> 80x30", "lock off -> on"));
}

TEST(TerminalTest, ASlaveIsOpenedAgainAndAMasterIsNot) {
  EXPECT_THAT(texts(diff::plan_descriptors(table({{5, slave()}}, false), {})),
              ElementsAre("open the terminal again: file 0", "descriptor 5: file 0", "descriptor 5: status flags 02"));
  const auto plan = diff::plan_descriptors(table({{5, master()}}, false), {});
  ASSERT_THAT(plan.refusals, SizeIs(1));
  EXPECT_EQ(plan.refusals[0].object, "descriptor 5 (/dev/ptmx)");
  EXPECT_THAT(plan.refusals[0].reason, HasSubstr("master was closed"));
}

TEST(TerminalTest, MastersComeLast) {
  Terminal packets = master();
  packets.inside = packets.packets = true;
  Terminal changed = slave();
  changed.exclusive = true;
  const auto plan =
      diff::plan_descriptors(table({{4, packets}, {5, slave()}}, false), table({{4, packets}, {5, changed}}, true));
  EXPECT_THAT(texts(plan), ElementsAre("terminal 5: put right what it holds", "terminal 4: put right what it holds"));
}

TEST(TerminalTest, WhatCannotGoBackIsRefusedAndAHangUpIsNoted) {
  Terminal now = slave();
  now.discipline = 2;
  EXPECT_THAT(diff::cannot_put_right(slave(), now).reason, HasSubstr("line discipline was changed since (0 -> 2)"));
  Terminal then = slave();
  then.controlling = true;
  EXPECT_THAT(diff::cannot_put_right(then, slave()).reason, HasSubstr("given up its controlling terminal"));
  now = slave();
  now.hung_up = true;
  const auto plan = diff::plan_descriptors(table({{0, then}}, false), table({{0, now}}, true));
  EXPECT_THAT(plan.refusals, IsEmpty());
  EXPECT_THAT(plan.notes, ElementsAre(HasSubstr("has hung up since")));
  EXPECT_FALSE(diff::can_become(now, slave()));
}

TEST(TerminalTest, MastersOfOneDeviceFileAreToldApart) {
  EXPECT_TRUE(model::same_terminal(master(3), master(3)));
  EXPECT_FALSE(model::same_terminal(master(3), master(4)));
  Terminal gone = slave();
  gone.device = 0;
  gone.hung_up = true;
  EXPECT_TRUE(model::same_terminal(slave(), gone));
}

}  // namespace
}  // namespace relive
