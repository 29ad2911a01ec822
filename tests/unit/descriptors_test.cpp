#include "diff/descriptors.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cstring>
#include <fstream>
#include <map>
#include <random>
#include <sstream>

#include "capture/descriptors.h"
#include "capture/fdinfo.h"
#include "capture/opened.h"
#include "diff/kind_rules.h"
#include "tests/unit/tables.h"
#include "tests/unit/texts.h"

namespace relive {
namespace {

using diff::plan_descriptors;
using model::DescriptorTable;
using model::EpollEntry;
using model::EpollSet;
using model::EventCounter;
using model::OpenFile;
using model::PipeEnd;
using model::RegularFile;
using model::RemoteFd;
using model::Socket;
using model::SocketState;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

// --- tables by hand

std::vector<std::byte> address(std::uint16_t port) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  in.sin_port = htons(port);
  const auto bytes = std::as_bytes(std::span(&in, 1));
  return {bytes.begin(), bytes.end()};
}

OpenFile tcp(std::uint64_t inode, SocketState state, std::uint16_t local, std::uint16_t peer = 0) {
  Socket socket;
  socket.inode = inode;
  socket.family = AF_INET;
  socket.type = SOCK_STREAM;
  socket.protocol = IPPROTO_TCP;
  socket.state = state;
  socket.local = address(local);
  if (peer != 0) socket.peer = address(peer);
  return {.status_flags = O_RDWR, .object = socket};
}

std::vector<std::string> differences(const diff::DescriptorPlan& plan) {
  std::vector<std::string> out;
  for (const auto& difference : plan.differences) out.push_back(difference.object + ": " + difference.text);
  return out;
}
TEST(DescriptorPlanTest, AnUnchangedTableNeedsNothing) {
  Builder wanted;
  wanted.at(0, wanted.file(regular("/a", 1))).at(5, wanted.file(counter(3, 7)));
  Builder living;
  living.at(0, living.file(same(regular("/a", 1), 0))).at(5, living.file(same(counter(3, 7), 1)));
  const auto plan = plan_descriptors(wanted.table, living.table);
  EXPECT_THAT(texts(plan), IsEmpty());
  EXPECT_THAT(differences(plan), IsEmpty());
  EXPECT_THAT(plan.refusals, IsEmpty());
}

TEST(DescriptorPlanTest, AClosedFileComesFromTheHoldsAndAnOpenedOneIsClosed) {
  Builder wanted;
  wanted.at(7, wanted.file(regular("/tmp/x", 1, 30)), true);
  Builder living;
  living.at(9, living.file(tcp(50, SocketState::connected, 55, 80)));
  const auto plan = plan_descriptors(wanted.table, living.table);
  EXPECT_THAT(texts(plan),
              ElementsAre("give the task the held file 0", "close descriptor 9", "descriptor 7: file 0",
                          "descriptor 7: no lock (flock)", "descriptor 7: no lock on bytes from 0 on (open file)",
                          "descriptor 7: no lease", "descriptor 7: status flags 02", "descriptor 7: owner 0, signal 0",
                          "descriptor 7: position 30"));
  EXPECT_THAT(differences(plan), ElementsAre("descriptor 7 (/tmp/x): closed since",
                                             "descriptor 9: opened since: socket 127.0.0.1:55 -> 127.0.0.1:80"));
}

TEST(DescriptorPlanTest, ExchangedNumbersGoThroughSpares) {
  Builder wanted;
  wanted.at(3, wanted.file(regular("/a", 1))).at(4, wanted.file(regular("/b", 2)));
  Builder living;
  living.at(3, living.file(same(regular("/b", 2), 1))).at(4, living.file(same(regular("/a", 1), 0)));
  const auto plan = plan_descriptors(wanted.table, living.table);
  EXPECT_THAT(texts(plan), ElementsAre("keep descriptor 4 for file 0", "keep descriptor 3 for file 1",
                                       "descriptor 3: file 0", "descriptor 4: file 1"));
}

TEST(DescriptorPlanTest, PositionsFlagsAndCloseOnExecArePutRightInPlace) {
  Builder wanted;
  wanted.at(3, wanted.file(regular("/a", 1, 10)));
  Builder living;
  OpenFile changed = same(regular("/a", 1, 20), 0);
  changed.status_flags |= O_APPEND;
  changed.locks = {{.kind = model::LockKind::flock, .mode = model::LockMode::write, .file = {}}};
  living.at(3, living.file(changed), true);
  const auto plan = plan_descriptors(wanted.table, living.table);
  EXPECT_THAT(texts(plan), ElementsAre("descriptor 3: close-on-exec off", "descriptor 3: no lock (flock)",
                                       "descriptor 3: status flags 02", "descriptor 3: position 10"));
  EXPECT_THAT(differences(plan), Contains("descriptor 3 (/a): write lock (flock) since"));
  EXPECT_THAT(differences(plan), Contains("descriptor 3 (/a): position 10 -> 20"));
}

TEST(DescriptorPlanTest, APipeOutOfTheTaskThatWasClosedIsRefusedByName) {
  Builder wanted;
  wanted.at(1, wanted.file(pipe_end(9, true, {}, true)));
  const auto plan = plan_descriptors(wanted.table, {});
  ASSERT_THAT(plan.refusals, SizeIs(1));
  EXPECT_EQ(plan.refusals[0].object, "descriptor 1 (pipe, write end)");
  EXPECT_THAT(plan.refusals[0].reason, HasSubstr("other end belongs to another task"));
}

TEST(DescriptorPlanTest, AFileInAnEpollSetMayNotBeHeldAndIsRefusedWhenClosed) {
  Builder wanted;
  OpenFile device{
      .status_flags = O_RDWR, .watched = true, .object = model::DeviceFile{.path = "/dev/null", .identity = {1, 2}}};
  wanted.at(0, wanted.file(device));
  EXPECT_THAT(plan_descriptors(wanted.table, {}).refusals, SizeIs(1));
}

TEST(DescriptorPlanTest, APipeOfTheSameShapeAtTheSameNumbersIsAdopted) {
  Builder wanted;
  wanted.at(3, wanted.file(pipe_end(9, false, "abc"))).at(4, wanted.file(pipe_end(9, true)));
  Builder living;
  living.at(3, living.file(pipe_end(10, false, "a"))).at(4, living.file(pipe_end(10, true)));
  EXPECT_THAT(texts(plan_descriptors(wanted.table, living.table)),
              ElementsAre("pipe 4 -> 3: put its unread bytes back"));
}

TEST(DescriptorPlanTest, APipeThatLostAnEndIsMadeAnew) {
  Builder wanted;
  wanted.at(3, wanted.file(pipe_end(9, false, "abc"))).at(4, wanted.file(pipe_end(9, true)));
  Builder living;
  living.at(3, living.file(same(pipe_end(9, false, "abc"), 0)));
  EXPECT_THAT(texts(plan_descriptors(wanted.table, living.table)),
              ElementsAre("make a pipe: read end file 0, write end file 1", "descriptor 3: file 0",
                          "descriptor 4: file 1", "descriptor 3: status flags 0", "descriptor 4: status flags 01"));
}

TEST(DescriptorPlanTest, ConnectionsAreKeptClosedOrGone) {
  Builder wanted;
  wanted.at(5, wanted.file(tcp(50, SocketState::connected, 1, 2)))
      .at(6, wanted.file(tcp(51, SocketState::connected, 3, 4)));
  Builder living;
  living.at(5, living.file(same(tcp(50, SocketState::connected, 1, 2), 0)));
  const auto plan = plan_descriptors(wanted.table, living.table);
  EXPECT_THAT(texts(plan), Contains("make a socket whose peer is gone: file 1"));
  EXPECT_THAT(plan.notes,
              UnorderedElementsAre(HasSubstr("descriptor 5 (socket 127.0.0.1:1 -> 127.0.0.1:2): connection kept"),
                                   HasSubstr("descriptor 6")));
}

TEST(DescriptorPlanTest, AListeningSocketOpenedAnewOnTheSameAddressIsAdopted) {
  Builder wanted;
  wanted.at(5, wanted.file(tcp(50, SocketState::listening, 6379)));
  Builder living;
  living.at(8, living.file(tcp(77, SocketState::listening, 6379)));
  EXPECT_THAT(texts(plan_descriptors(wanted.table, living.table)),
              ElementsAre("keep descriptor 8 for file 0", "close descriptor 8", "descriptor 5: file 0"));
}

TEST(DescriptorPlanTest, AnEpollSetWatchesARebuiltFileAnew) {
  Builder wanted;
  wanted.at(3, wanted.file({.object = EpollSet{{{RemoteFd{4}, EPOLLIN, 4}}}})).at(4, wanted.file(counter(1, 0)));
  Builder living;
  living.at(3, living.file({.object = EpollSet{{{RemoteFd{6}, EPOLLIN, 6}}}})).at(6, living.file(counter(2, 0)));
  EXPECT_THAT(texts(plan_descriptors(wanted.table, living.table)),
              ElementsAre("make eventfd: file 1", "epoll set 3: watch 6 no more", "close descriptor 6",
                          "descriptor 4: file 1", "descriptor 4: status flags 02", "epoll set 3: watch 4 for 0x1"));
}

TEST(DescriptorPlanTest, AnEdgeTriggeredEntryIsArmedAnew) {
  Builder wanted;
  wanted.at(3, wanted.file({.object = EpollSet{{{RemoteFd{4}, EPOLLIN | EPOLLET, 4}}}}))
      .at(4, wanted.file(counter(1, 0)));
  Builder living = wanted;
  living.table.open_files[1].same_as = 1;
  EXPECT_THAT(texts(plan_descriptors(wanted.table, living.table)),
              ElementsAre(HasSubstr("epoll set 3: watch again 4")));
  EXPECT_THAT(differences(plan_descriptors(wanted.table, living.table)), IsEmpty());
}

// --- any table to any other, carried out by a kernel in miniature

// What a number leads to. `object` says which description it is: same object, same description.
struct Kernel {
  struct Object {
    OpenFile file;
    std::map<std::pair<std::size_t, int>, std::pair<std::uint32_t, std::uint64_t>> watches;  // epoll: (object, fd)
  };
  std::vector<Object> objects;
  std::map<int, std::pair<std::size_t, bool>> numbers;
  std::map<std::size_t, std::size_t> spares;  // by wanted file
  const DescriptorTable& wanted;
  std::vector<std::string> errors;

  Kernel(const DescriptorTable& living, const DescriptorTable& wanted_table) : wanted(wanted_table) {
    for (const OpenFile& file : living.open_files) objects.push_back({file, {}});
    for (const auto& d : living.descriptors) numbers[d.fd.value] = {d.open_file, d.close_on_exec};
    for (Object& object : objects) {
      if (const auto* const set = std::get_if<EpollSet>(&object.file.object)) {
        for (const auto& entry : set->entries)
          object.watches[{numbers.at(entry.fd.value).first, entry.fd.value}] = {entry.events, entry.data};
      }
    }
  }
  std::size_t make(OpenFile file) {
    objects.push_back({std::move(file), {}});
    return objects.size() - 1;
  }
  void make_spare(std::size_t file) { spares[file] = make(wanted.open_files[file]); }
  OpenFile& at(RemoteFd fd) {
    static OpenFile nothing;
    const auto found = numbers.find(fd.value);
    if (found == numbers.end()) {
      errors.push_back("EBADF");
      return nothing;
    }
    return objects[found->second.first].file;
  }
  // What no number leads to any more leaves the epoll sets.
  void reap() {
    std::set<std::size_t> alive;
    for (const auto& [fd, to] : numbers) alive.insert(to.first);
    for (const auto& [file, object] : spares) alive.insert(object);
    for (Object& object : objects)
      std::erase_if(object.watches, [&](const auto& watch) { return !alive.contains(watch.first.first); });
  }

  void operator()(const diff::TakeHeld& o) {
    OpenFile held = wanted.open_files[o.file];
    held.status_flags ^= O_APPEND;  // whatever became of it
    std::get<RegularFile>(held.object).position = 999;
    spares[o.file] = make(held);
  }
  void operator()(const diff::TakeLiving& o) { spares[o.file] = numbers.at(o.from.value).first; }
  void operator()(const diff::Import&) { errors.push_back("one table imports nothing"); }
  void operator()(const diff::MakePipe& o) {
    if (o.read_end) make_spare(*o.read_end);
    if (o.write_end) make_spare(*o.write_end);
  }
  void operator()(const diff::MakeSelfContained& o) { make_spare(o.file); }
  void operator()(const diff::MakeEpollSet& o) { make_spare(o.file); }
  void operator()(const diff::WatchByOldNumber&) { errors.push_back("no entry was stale"); }
  void operator()(const diff::MakeSocket& o) { make_spare(o.file); }
  void operator()(const diff::MakeSocketPair& o) {
    make_spare(o.first);
    make_spare(o.second);
  }
  void operator()(const diff::OpenTerminal& o) { make_spare(o.file); }
  void operator()(const diff::OpenNamedPipe& o) { make_spare(o.file); }
  void operator()(const diff::RefillNamedPipe&) {}
  void operator()(const diff::MakeConnection& o) {
    make_spare(o.first);
    make_spare(o.second);
  }
  void operator()(const diff::MoveSocket&) {}
  void operator()(const diff::MakeHungUp& o) { make_spare(o.file); }
  void operator()(const diff::SetOption&) {}
  void operator()(const diff::ConnectSocket&) {}
  void operator()(const diff::FillSocket&) {}
  void operator()(const diff::EmptySocket&) {}
  void operator()(const diff::RefillSocket&) {}
  void operator()(const diff::ShutDown&) {}
  void operator()(const diff::Unwatch& o) {
    auto& watches = objects[numbers.at(o.epoll.value).first].watches;
    if (watches.erase({numbers.at(o.fd.value).first, o.fd.value}) != 1) errors.push_back("DEL: ENOENT");
  }
  void operator()(const diff::CloseDescriptor& o) {
    if (numbers.erase(o.fd.value) != 1) errors.push_back("close: EBADF");
    reap();
  }
  void operator()(const diff::Place& o) {
    numbers[o.to.value] = {o.from ? numbers.at(o.from->value).first : spares.at(o.file), o.close_on_exec};
    reap();
  }
  void operator()(const diff::SetCloseOnExec& o) { numbers.at(o.fd.value).second = o.on; }
  void operator()(const diff::SetStatusFlags& o) { at(o.fd).status_flags = o.flags; }
  void operator()(const diff::SetOwner& o) {
    at(o.fd).owner = o.owner;
    at(o.fd).owner_type = o.type;
    at(o.fd).owner_signal = o.signal;
  }
  void operator()(const diff::Seek& o) { std::get<RegularFile>(at(o.fd).object).position = o.position; }
  void operator()(const diff::OpenAnew& o) { make_spare(o.file); }
  void operator()(const diff::PutContents&) {}
  void operator()(const diff::TakeLocks&) {}
  void operator()(const diff::CloseSpare& o) { spares.erase(o.file); }
  void operator()(const diff::SetLocks& o) { EXPECT_TRUE(numbers.contains(o.fd.value)); }
  void operator()(const diff::RefillPipe& o) {
    auto& read_end = std::get<PipeEnd>(at(o.read_end).object);
    if (read_end.identity != std::get<PipeEnd>(at(o.write_end).object).identity)
      errors.push_back("refill: another pipe");
    read_end.bytes = std::get<PipeEnd>(wanted.open_files[o.file].object).bytes;
  }
  void operator()(const diff::PutRight& o) { at(o.fd).object = wanted.open_files[o.file].object; }
  void operator()(const diff::Listen&) {}
  void operator()(const diff::Watch& o) {
    auto& watches = objects[numbers.at(o.epoll.value).first].watches;
    const std::pair key{numbers.at(o.fd.value).first, o.fd.value};
    if (watches.contains(key) != o.modify) errors.push_back(o.modify ? "MOD: ENOENT" : "ADD: EEXIST");
    watches[key] = {o.events, o.data};
  }

  void expect_wanted() {
    EXPECT_THAT(errors, IsEmpty());
    ASSERT_EQ(numbers.size(), wanted.descriptors.size());
    spares.clear();
    reap();
    std::map<std::size_t, std::size_t> object_of;
    std::map<std::uint64_t, model::FileIdentity> pipe_of;
    for (const auto& d : wanted.descriptors) {
      ASSERT_TRUE(numbers.contains(d.fd.value)) << d.fd.value;
      const auto [object, close_on_exec] = numbers[d.fd.value];
      EXPECT_EQ(close_on_exec, d.close_on_exec);
      EXPECT_EQ(object_of.try_emplace(d.open_file, object).first->second, object)
          << "dup'ed descriptors are apart: " << d.fd.value;
    }
    std::set<std::size_t> distinct;
    for (const auto& [file, object] : object_of)
      EXPECT_TRUE(distinct.insert(object).second) << "two descriptions became one";
    for (const auto& [index, object] : object_of) {
      const OpenFile& file = wanted.open_files[index];
      const OpenFile& now = objects[object].file;
      ASSERT_EQ(file.object.index(), now.object.index());
      EXPECT_EQ(file.status_flags, now.status_flags);
      EXPECT_EQ(file.owner, now.owner);
      if (const auto* const r = std::get_if<RegularFile>(&file.object)) {
        EXPECT_EQ(*r, std::get<RegularFile>(now.object));
      } else if (const auto* const e = std::get_if<EventCounter>(&file.object)) {
        EXPECT_EQ(e->count, std::get<EventCounter>(now.object).count);
      } else if (const auto* const p = std::get_if<PipeEnd>(&file.object)) {
        const auto& pipe = std::get<PipeEnd>(now.object);
        EXPECT_EQ(p->write_end, pipe.write_end);
        EXPECT_EQ(p->bytes, pipe.bytes);
        EXPECT_EQ(pipe_of.try_emplace(p->identity.inode, pipe.identity).first->second, pipe.identity);
      } else if (const auto* const set = std::get_if<EpollSet>(&file.object)) {
        const auto& watches = objects[object].watches;
        EXPECT_EQ(watches.size(), set->entries.size());
        for (const auto& entry : set->entries) {
          const auto found = watches.find({numbers[entry.fd.value].first, entry.fd.value});
          ASSERT_NE(found, watches.end()) << "does not watch " << entry.fd.value;
          EXPECT_EQ(found->second, (std::pair{entry.events, entry.data}));
        }
      }
    }
  }
};

class RandomTable {
 public:
  explicit RandomTable(unsigned seed) : random_(seed) {}

  unsigned below(unsigned limit) { return std::uniform_int_distribution<unsigned>(0, limit - 1)(random_); }

  DescriptorTable wanted() {
    builder_ = {};
    const unsigned files = 1 + below(6);
    for (unsigned i = 0; i < files; ++i) add();
    for (unsigned i = below(4); i > 0; --i) place(below(static_cast<unsigned>(builder_.table.open_files.size())));
    for (OpenFile& file : builder_.table.open_files) fill(file);
    return builder_.table;
  }

  // What a program may have made of `table` since.
  DescriptorTable living(const DescriptorTable& table) {
    builder_ = {};
    std::map<std::size_t, std::size_t> kept;
    for (std::size_t index = 0; index < table.open_files.size(); ++index) {
      if (below(3) == 0) continue;
      OpenFile file = table.open_files[index];
      if (!std::holds_alternative<EpollSet>(file.object)) file.same_as = index;
      kept[index] = builder_.file(file);
    }
    for (const auto& d : table.descriptors) {
      if (!kept.contains(d.open_file)) continue;
      if (below(4) != 0) builder_.at(d.fd.value, kept[d.open_file], below(5) == 0 ? !d.close_on_exec : d.close_on_exec);
    }
    for (const auto& [index, file] : kept) {
      if (std::ranges::find(builder_.table.descriptors, file, &model::Descriptor::open_file) ==
          builder_.table.descriptors.end())
        place(file);
    }
    for (unsigned i = below(4); i > 0; --i) add();
    for (OpenFile& file : builder_.table.open_files) {
      if (below(2) == 0) fill(file);
    }
    for (OpenFile& file : builder_.table.open_files) {  // entries of files that are gone or moved
      if (auto* const set = std::get_if<EpollSet>(&file.object)) {
        std::erase_if(set->entries, [&](const auto& entry) { return builder_at(entry.fd) == nullptr; });
      }
    }
    return builder_.table;
  }

 private:
  const model::Descriptor* builder_at(RemoteFd fd) {
    const auto found = std::ranges::find(builder_.table.descriptors, fd, &model::Descriptor::fd);
    return found == builder_.table.descriptors.end() ? nullptr : &*found;
  }
  void place(std::size_t file) {
    for (;;) {
      const int fd = static_cast<int>(below(24));
      if (builder_at(RemoteFd{fd}) != nullptr) continue;
      builder_.at(fd, file, below(2) == 0);
      return;
    }
  }
  void add() {
    const std::uint64_t identity = ++identity_;
    switch (below(4)) {
      case 0:
        place(builder_.file(regular("/r", identity)));
        return;
      case 1:
        place(builder_.file(counter(identity, 0)));
        return;
      case 2:
        place(builder_.file({.status_flags = O_RDWR, .object = EpollSet{}}));
        return;
      default:
        place(builder_.file(pipe_end(identity, false)));
        place(builder_.file(pipe_end(identity, true)));
        return;
    }
  }
  void fill(OpenFile& file) {
    if (below(2) == 0) file.status_flags ^= O_NONBLOCK;
    if (below(4) == 0) file.owner = static_cast<int>(below(3));
    if (auto* const r = std::get_if<RegularFile>(&file.object)) r->position = below(100);
    if (auto* const e = std::get_if<EventCounter>(&file.object)) e->count = below(3);
    if (auto* const p = std::get_if<PipeEnd>(&file.object); p != nullptr && !p->write_end)
      p->bytes = bytes_of(std::string(below(3), 'x'));
    if (auto* const set = std::get_if<EpollSet>(&file.object)) {
      set->entries.clear();
      for (const auto& d : builder_.table.descriptors) {
        const OpenFile& target = builder_.table.open_files[d.open_file];
        if (std::holds_alternative<EpollSet>(target.object) || std::holds_alternative<RegularFile>(target.object))
          continue;
        if (below(2) == 0)
          set->entries.push_back({d.fd, EPOLLIN | (below(3) == 0 ? std::uint32_t{EPOLLET} : 0U), below(5)});
      }
    }
  }

  std::mt19937 random_;
  Builder builder_;
  std::uint64_t identity_ = 100;
};

TEST(DescriptorPlanTest, AnyTableGoesBackToAnyOther) {
  for (unsigned seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    RandomTable random(seed);
    const DescriptorTable wanted = random.wanted();
    const DescriptorTable living = random.living(wanted);
    const auto plan = plan_descriptors(wanted, living);
    ASSERT_THAT(plan.refusals, IsEmpty());
    Kernel kernel(living, wanted);
    for (const auto& operation : plan.operations) std::visit(kernel, operation);
    kernel.expect_wanted();
    if (HasFailure()) {
      for (const auto& line : texts(plan)) ADD_FAILURE() << line;
      return;
    }
  }
}

// --- the texts of /proc

TEST(DescriptorTextTest, EventCounter) {
  const auto counted = capture::parse_event_counter(
      "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t4\neventfd-count:               1f\neventfd-id: 12\neventfd-semaphore: "
      "1\n");
  ASSERT_TRUE(counted.has_value());
  EXPECT_EQ(counted->count, 31U);
  EXPECT_EQ(counted->id, 12U);
  EXPECT_TRUE(counted->semaphore);
  EXPECT_FALSE(capture::parse_event_counter("pos:\t0\n").has_value());
}

TEST(DescriptorPlanTest, AnEntryByAnOldNumberStaysOrTheSetIsMadeAnew) {
  Builder wanted;
  const EpollEntry moved{.fd = RemoteFd{9}, .events = EPOLLIN, .data = 7, .stale = true, .file = 1};
  const std::size_t set = wanted.file({.object = EpollSet{{moved}}});
  wanted.at(3, set).at(4, wanted.file(counter(1, 0)));
  Builder living = wanted;
  for (std::size_t file = 0; file < 2; ++file) living.table.open_files[file].same_as = file;
  EXPECT_THAT(texts(diff::plan_descriptors(wanted.table, living.table)), IsEmpty());
  living.table.open_files[set].object = EpollSet{};
  EXPECT_THAT(texts(diff::plan_descriptors(wanted.table, living.table)),
              ElementsAre("make an epoll set: file 0", "new epoll set of file 0: watch file 1 as 9 for 0x1",
                          "descriptor 3: file 0", "descriptor 3: status flags 0"));
  std::get<EpollSet>(wanted.table.open_files[set].object).entries[0].file.reset();
  EXPECT_THAT(diff::plan_descriptors(wanted.table, living.table).refusals, testing::SizeIs(1));
  EXPECT_THAT(capture::unhandled(wanted.table), ElementsAre(HasSubstr("nor under any other")));
}

TEST(DescriptorTextTest, EpollSet) {
  const auto set = capture::parse_epoll_set(
      "pos:\t0\nflags:\t02\ntfd:        9 events:       19 data:                9  pos:0 ino:4d2 sdev:9\n"
      "tfd:        5 events: 80000019 data: ffffffffffffffff  pos:0 ino:4d2 sdev:9\n");
  ASSERT_TRUE(set.has_value());
  ASSERT_THAT(set->entries, SizeIs(2));
  EXPECT_EQ(set->entries[0].fd.value, 5);
  EXPECT_EQ(set->entries[0].events, 0x80000019U);
  EXPECT_EQ(set->entries[0].data, ~0ULL);
  EXPECT_EQ(set->entries[1].fd.value, 9);
}

TEST(DescriptorTextTest, Names) {
  EXPECT_EQ(capture::unhandled_kind("anon_inode:[perf_event]"), "perf event");
  EXPECT_EQ(capture::unhandled_kind("anon_inode:[fanotify]"), "fanotify group");
  EXPECT_EQ(capture::unhandled_kind("anon_inode:bpf-map"), "BPF map");
  EXPECT_EQ(capture::unhandled_kind("anon_inode:[novelty]"), "kernel object ([novelty])");
  EXPECT_EQ(capture::unhandled_kind("net:[4026531840]"), "namespace or kernel object (net:[4026531840])");
  EXPECT_EQ(capture::unhandled_kind("/tmp/a"), "");
  EXPECT_EQ(capture::unhandled_kind("pipe:[12]"), "");
}

TEST(DescriptorTextTest, WhatIsNotHandledIsNamed) {
  Builder table;
  table.at(7, table.file({.object = model::UnhandledFile{"userfaultfd"}}));
  OpenFile locked = regular("/x", 1);
  locked.locks = {{.kind = model::LockKind::lease, .mode = model::LockMode::write, .breaking = true, .file = {}}};
  table.at(8, table.file(locked)).at(9, table.file({.object = model::UnhandledFile{"huge-page file (/memfd:a)"}}));
  EXPECT_THAT(
      capture::unhandled(table.table),
      ElementsAre("descriptor 7 is a userfaultfd; this release does not roll back userfaultfds",
                  "descriptor 8 (/x) holds a lease that somebody else is breaking just now",
                  "descriptor 9 is a huge-page file (/memfd:a); this release does not roll back huge-page files"));
}

TEST(DescriptorTextTest, TheDocumentShowsTheRules) {
  std::ifstream file(RELIVE_SOURCE_DIR "/docs/descriptors.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_THAT(text.str(), HasSubstr(diff::kind_rules_markdown()))
      << "docs/descriptors.md is not what diff/kind_rules.cpp says; the table is:\n"
      << diff::kind_rules_markdown();
}

}  // namespace
}  // namespace relive
