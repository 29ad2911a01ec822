// Several descriptor tables in one plan: parents and children, and what they share.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>

#include "diff/descriptors.h"
#include "diff/numbers.h"
#include "tests/unit/tables.h"

namespace relive {
namespace {

using diff::DescriptorOperation;
using diff::plan_descriptors;
using model::DescriptorTable;
using model::EpollSet;
using model::EventCounter;
using model::FileLock;
using model::LockKind;
using model::LockMode;
using model::OpenFile;
using model::PipeEnd;
using model::RegularFile;
using model::RemoteFd;
using model::Socket;
using model::SocketState;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const std::vector<model::Pid> kTasks{{100}, {200}, {300}, {400}};
std::span<const model::Pid> tasks(std::size_t count) { return std::span(kTasks).first(count); }

OpenFile socket(std::uint64_t inode, std::uint64_t peer, std::string_view unread = {}) {
  Socket socket;
  socket.inode = inode;
  socket.family = AF_UNIX;
  socket.type = SOCK_STREAM;
  socket.state = SocketState::connected;
  socket.peer_inode = peer;
  if (!unread.empty()) socket.unread.push_back({.bytes = bytes_of(unread), .from = {}});
  return {.status_flags = O_RDWR, .object = socket};
}
// --- a kernel in miniature: tables, open files, pipes, pairs, epoll sets, locks

using Locks = std::array<LockMode, 8>;
void set(Locks& locks, const diff::LockStep& step) {
  for (std::size_t at = step.first; at <= step.last && at < locks.size(); ++at) locks[at] = step.mode;
}

class World {
 public:
  World(const DescriptorTable& living, const DescriptorTable& wanted, const diff::DescriptorPlan& plan, int surplus)
      : wanted_(wanted), plan_(plan) {
    for (const OpenFile& file : living.open_files) {
      objects_.push_back({file, {}, {}});
      for (const FileLock& lock : file.locks) {
        const diff::LockStep step{.kind = lock.kind, .mode = lock.mode, .first = lock.first, .last = lock.last};
        if (lock.kind == LockKind::posix)
          set(posix_[{lock.table, inode(objects_.back())}], step);
        else
          set(objects_.back().locks, step);
      }
      if (const auto* const pipe = std::get_if<PipeEnd>(&file.object); pipe != nullptr && !pipe->write_end)
        bytes_[pipe->identity.inode] = pipe->bytes;
    }
    for (const auto& d : living.descriptors) tables_[d.fd.table][d.fd.value] = {d.open_file, d.close_on_exec};
    for (Object& object : objects_) {
      const auto* const set = std::get_if<EpollSet>(&object.file.object);
      if (set == nullptr) continue;
      for (const auto& entry : set->entries)
        if (!entry.stale) object.watches[{number(entry.fd).object, entry.fd.value}] = {entry.events, entry.data};
    }
    surplus_ = surplus;
  }

  // Prepares in order; then the programs of the tables go on in whatever order the seed says.
  void carry_out(std::mt19937& random) {
    std::map<int, std::vector<DescriptorOperation>> programs;
    for (const DescriptorOperation& planned : plan_.operations) {
      const int table = diff::table_of(planned, plan_);
      DescriptorOperation operation = planned;
      std::visit(
          [&](auto& one) {
            diff::for_each_number_of(one, [&](RemoteFd& fd) {
              if (const auto file = diff::spare_file(fd)) fd.value = spare(*file, fd.table);
            });
          },
          operation);
      if (is_prepared(operation)) {
        std::visit([&](const auto& one) { prepare(one, table); }, operation);
        continue;
      }
      diff::for_each_number(operation, [&](RemoteFd fd) {
        if (fd.table != table) error("an operation of one table names a number of another");
      });
      if (table >= surplus_) error("something is committed in a table that ends");
      programs[table].push_back(operation);
    }
    std::vector<int> order;
    for (const auto& [table, program] : programs) order.insert(order.end(), program.size(), table);
    for (const auto& [table, numbers] : tables_)
      if (table >= surplus_) order.push_back(table);
    std::ranges::shuffle(order, random);
    std::map<int, std::size_t> next;
    for (const int table : order) {
      if (table >= surplus_) {
        while (!tables_[table].empty()) close({.value = tables_[table].begin()->first, .table = table});
        continue;
      }
      std::visit([&](const auto& one) { commit(one, table); }, programs[table][next[table]++]);
    }
    for (const auto& [key, number] : std::map(spares_)) close({.value = number, .table = key.second});
    for (const auto& last : plan_.last)
      for (const auto& step : last.steps) set_lock(last.fd, step);
  }

  void expect_wanted() {
    EXPECT_THAT(errors_, IsEmpty());
    std::size_t numbers = 0;
    for (const auto& [table, all] : tables_) numbers += all.size();
    ASSERT_EQ(numbers, wanted_.descriptors.size());
    std::map<std::size_t, std::size_t> object_of;
    for (const auto& d : wanted_.descriptors) {
      ASSERT_TRUE(tables_[d.fd.table].contains(d.fd.value)) << d.fd.table << ":" << d.fd.value;
      const Number there = number(d.fd);
      EXPECT_EQ(there.close_on_exec, d.close_on_exec);
      EXPECT_EQ(object_of.try_emplace(d.open_file, there.object).first->second, there.object)
          << "what was shared is apart: " << d.fd.table << ":" << d.fd.value;
    }
    std::set<std::size_t> distinct;
    for (const auto& [file, object] : object_of) EXPECT_TRUE(distinct.insert(object).second) << "two became one";
    std::map<std::uint64_t, std::uint64_t> pipe_of;
    std::map<std::pair<int, std::uint64_t>, Locks> posix;
    for (const auto& [index, object] : object_of) {
      const OpenFile& file = wanted_.open_files[index];
      const OpenFile& now = objects_[object].file;
      ASSERT_EQ(file.object.index(), now.object.index());
      EXPECT_EQ(file.status_flags, now.status_flags);
      EXPECT_EQ(file.owner, now.owner);
      if (const auto* const r = std::get_if<RegularFile>(&file.object)) {
        EXPECT_EQ(r->position, std::get<RegularFile>(now.object).position);
        Locks own{};
        for (const FileLock& lock : file.locks) {
          const diff::LockStep step{.kind = lock.kind, .mode = lock.mode, .first = lock.first, .last = lock.last};
          set(lock.kind == LockKind::posix ? posix[{lock.table, r->identity.inode}] : own, step);
        }
        EXPECT_EQ(objects_[object].locks, own);
      } else if (const auto* const e = std::get_if<EventCounter>(&file.object)) {
        EXPECT_EQ(e->count, std::get<EventCounter>(now.object).count);
      } else if (const auto* const p = std::get_if<PipeEnd>(&file.object)) {
        const auto& pipe = std::get<PipeEnd>(now.object);
        EXPECT_EQ(p->write_end, pipe.write_end);
        EXPECT_EQ(pipe_of.try_emplace(p->identity.inode, pipe.identity.inode).first->second, pipe.identity.inode);
        EXPECT_TRUE(p->write_end || p->bytes == bytes_[pipe.identity.inode]);
      } else if (const auto* const s = std::get_if<Socket>(&file.object)) {
        EXPECT_EQ(model::bytes_of(s->unread), model::bytes_of(std::get<Socket>(now.object).unread));
        const auto peer = std::ranges::find_if(object_of, [&](const auto& other) {
          const auto* const socket = std::get_if<Socket>(&wanted_.open_files[other.first].object);
          return socket != nullptr && socket->inode == s->peer_inode;
        });
        if (s->peer_inode != 0) {
          ASSERT_NE(peer, object_of.end());
          EXPECT_EQ(std::get<Socket>(now.object).peer_inode,
                    std::get<Socket>(objects_[peer->second].file.object).inode);
        }
      } else if (const auto* const set = std::get_if<EpollSet>(&file.object)) {
        const auto& watches = objects_[object].watches;
        EXPECT_EQ(watches.size(), set->entries.size());
        for (const auto& entry : set->entries) {
          const auto found = watches.find({number(entry.fd).object, entry.fd.value});
          ASSERT_NE(found, watches.end()) << "does not watch " << entry.fd.value;
          EXPECT_EQ(found->second, (std::pair{entry.events, entry.data}));
        }
      }
    }
    std::erase_if(posix_, [](const auto& one) { return one.second == Locks{}; });
    EXPECT_EQ(posix_, posix);
  }

 private:
  struct Object {
    OpenFile file;
    std::map<std::pair<std::size_t, int>, std::pair<std::uint32_t, std::uint64_t>> watches;  // epoll: (object, fd)
    Locks locks;                                                                             // of the description
  };
  struct Number {
    std::size_t object;
    bool close_on_exec;
  };

  void error(std::string what) { errors_.push_back(std::move(what)); }
  static std::uint64_t inode(const Object& object) {
    const auto* const file = std::get_if<RegularFile>(&object.file.object);
    return file == nullptr ? 0 : file->identity.inode;
  }
  Number number(RemoteFd fd) {
    const auto found = tables_[fd.table].find(fd.value);
    if (found != tables_[fd.table].end()) return found->second;
    error("EBADF");
    return {};
  }
  Object& at(RemoteFd fd) { return objects_[number(fd).object]; }
  int spare(std::size_t file, int table) {
    const auto found = spares_.find({file, table});
    if (found != spares_.end()) return found->second;
    error("no spare number");
    return -1;
  }
  void make_spare(std::size_t file, int table, std::size_t object) {
    if (!spares_.try_emplace({file, table}, 1000 + next_).second) error("two spare numbers of a file in one table");
    tables_[table][1000 + next_++] = {object, true};
  }
  std::size_t make(OpenFile file) {
    file.locks.clear();
    objects_.push_back({std::move(file), {}, {}});
    return objects_.size() - 1;
  }
  void make_wanted(std::size_t file, int table) { make_spare(file, table, make(wanted_.open_files[file])); }

  void close(RemoteFd fd) {
    const Number there = number(fd);
    if (const std::uint64_t file = inode(objects_[there.object]); file != 0) posix_.erase({fd.table, file});
    tables_[fd.table].erase(fd.value);
    std::set<std::size_t> alive;
    for (const auto& [table, numbers] : tables_)
      for (const auto& [value, to] : numbers) alive.insert(to.object);
    for (Object& object : objects_)
      std::erase_if(object.watches, [&](const auto& watch) { return !alive.contains(watch.first.first); });
  }
  void set_lock(RemoteFd fd, const diff::LockStep& step) {
    Object& object = at(fd);
    set(step.kind == LockKind::posix ? posix_[{fd.table, inode(object)}] : object.locks, step);
  }

  static bool is_prepared(const DescriptorOperation& operation) {
    return std::visit(
        []<class T>(const T&) {
          return std::is_same_v<T, diff::TakeHeld> || std::is_same_v<T, diff::OpenAnew> ||
                 std::is_same_v<T, diff::TakeLiving> || std::is_same_v<T, diff::Import> ||
                 std::is_same_v<T, diff::MakePipe> || std::is_same_v<T, diff::MakeSelfContained> ||
                 std::is_same_v<T, diff::MakeEpollSet> || std::is_same_v<T, diff::WatchByOldNumber> ||
                 std::is_same_v<T, diff::MakeSocketPair> || std::is_same_v<T, diff::MakeHungUp> ||
                 std::is_same_v<T, diff::TakeLocks>;
        },
        operation);
  }

  void prepare(const diff::TakeHeld& o, int table) {
    OpenFile held = wanted_.open_files[o.file];
    held.status_flags ^= O_APPEND;  // whatever became of it
    std::get<RegularFile>(held.object).position = 999;
    make_spare(o.file, table, make(held));
  }
  void prepare(const diff::OpenAnew& o, int table) { make_wanted(o.file, table); }
  void prepare(const diff::TakeLiving& o, int table) {
    if (o.from.table != table) error("a second number from another table");
    make_spare(o.file, table, number(o.from).object);
  }
  void prepare(const diff::Import& o, int table) {
    const RemoteFd home{.value = -1, .table = plan_.homes[o.file]};
    make_spare(
        o.file, table,
        o.from ? number(*o.from).object : number({.value = spare(o.file, home.table), .table = home.table}).object);
  }
  void prepare(const diff::MakePipe& o, int table) {
    const std::uint64_t fresh = ++fresh_;
    for (const auto& end : {o.read_end, o.write_end}) {
      if (!end) continue;
      OpenFile file = wanted_.open_files[*end];
      std::get<PipeEnd>(file.object).identity.inode = fresh;
      if (end == o.read_end) bytes_[fresh] = std::get<PipeEnd>(file.object).bytes;
      make_spare(*end, table, make(file));
    }
  }
  void prepare(const diff::MakeSelfContained& o, int table) { make_wanted(o.file, table); }
  void prepare(const diff::MakeEpollSet& o, int table) { make_wanted(o.file, table); }
  void prepare(const diff::WatchByOldNumber&, int) { error("no entry was stale"); }
  void prepare(const diff::MakeSocketPair& o, int table) {
    const std::uint64_t one = ++fresh_;
    const std::uint64_t other = ++fresh_;
    for (const auto& [index, inode, peer] : {std::tuple{o.first, one, other}, std::tuple{o.second, other, one}}) {
      OpenFile file = wanted_.open_files[index];
      std::get<Socket>(file.object).inode = inode;
      std::get<Socket>(file.object).peer_inode = peer;
      make_spare(index, table, make(file));
    }
  }
  void prepare(const diff::MakeHungUp& o, int table) { make_wanted(o.file, table); }
  void prepare(const diff::TakeLocks& o, int table) {
    const RemoteFd from = o.from ? *o.from : RemoteFd{.value = spare(o.file, table), .table = table};
    if (from.table != table) error("locks are taken in another table");
    for (const auto& step : o.steps) set_lock(from, step);
  }
  void prepare(const auto&, int) { error("nothing like this was wanted"); }

  void commit(const diff::CloseSpare& o, int table) {
    close({.value = spare(o.file, table), .table = table});
    spares_.erase({o.file, table});
  }
  void commit(const diff::SetLocks& o, int) {
    for (const auto& step : o.steps) set_lock(o.fd, step);
  }
  void commit(const diff::Unwatch& o, int) {
    if (at(o.epoll).watches.erase({number(o.fd).object, o.fd.value}) != 1) error("DEL: ENOENT");
  }
  void commit(const diff::CloseDescriptor& o, int) { close(o.fd); }
  void commit(const diff::Place& o, int table) {
    const Number from = number({.value = o.from ? o.from->value : spare(o.file, table), .table = table});
    if (tables_[table].contains(o.to.value)) close(o.to);
    tables_[table][o.to.value] = {from.object, o.close_on_exec};
  }
  void commit(const diff::SetCloseOnExec& o, int) { tables_[o.fd.table].at(o.fd.value).close_on_exec = o.on; }
  void commit(const diff::SetStatusFlags& o, int) { at(o.fd).file.status_flags = o.flags; }
  void commit(const diff::SetOwner& o, int) {
    OpenFile& file = at(o.fd).file;
    file.owner = o.owner;
    file.owner_type = o.type;
    file.owner_signal = o.signal;
  }
  void commit(const diff::Seek& o, int) {
    auto& file = std::get<RegularFile>(at(o.fd).file.object);
    file.position = o.position;
  }
  void commit(const diff::RefillPipe& o, int) {
    const auto& read_end = std::get<PipeEnd>(at(o.read_end).file.object);
    const auto& write_end = std::get<PipeEnd>(at(o.write_end).file.object);
    if (read_end.identity != write_end.identity || read_end.write_end || !write_end.write_end)
      error("refill: another pipe");
    bytes_[read_end.identity.inode] = std::get<PipeEnd>(wanted_.open_files[o.file].object).bytes;
  }
  void commit(const diff::PutRight& o, int) { at(o.fd).file.object = wanted_.open_files[o.file].object; }
  void commit(const diff::EmptySocket& o, int) { std::get<Socket>(at(o.fd).file.object).unread.clear(); }
  void commit(const diff::RefillSocket& o, int table) {
    const auto number_of = [&](std::size_t file) {
      const auto found = std::ranges::find_if(
          wanted_.descriptors, [&](const auto& d) { return d.open_file == file && d.fd.table == table; });
      return found == wanted_.descriptors.end() ? RemoteFd{.value = spare(file, table), .table = table} : found->fd;
    };
    auto& receiver = std::get<Socket>(at(number_of(o.file)).file.object);
    const auto& messages = std::get<Socket>(wanted_.open_files[o.file].object).unread;
    for (std::size_t at_message = 0; at_message < messages.size(); ++at_message) {
      const auto& sender = std::get<Socket>(at(number_of(o.senders.at(at_message).value())).file.object);
      if (sender.peer_inode != receiver.inode) error("sent to another socket");
      receiver.unread.push_back(messages[at_message]);
    }
  }
  void commit(const diff::Watch& o, int) {
    auto& watches = at(o.epoll).watches;
    const std::pair key{number(o.fd).object, o.fd.value};
    if (watches.contains(key) != o.modify) error(o.modify ? "MOD: ENOENT" : "ADD: EEXIST");
    watches[key] = {o.events, o.data};
  }
  void commit(const auto&, int) { error("nothing like this was wanted"); }

  const DescriptorTable& wanted_;
  const diff::DescriptorPlan& plan_;
  int surplus_ = 0;  // the first table that is going to end
  std::vector<Object> objects_;
  std::map<int, std::map<int, Number>> tables_;
  std::map<std::pair<std::size_t, int>, int> spares_;
  std::map<std::uint64_t, std::vector<std::byte>> bytes_;  // by pipe
  std::map<std::pair<int, std::uint64_t>, Locks> posix_;   // by table and inode
  std::uint64_t fresh_ = 1'000'000;
  int next_ = 0;
  std::vector<std::string> errors_;
};

// Plans, carries out in some order, and compares; returns the plan.
diff::DescriptorPlan expect_back(const DescriptorTable& wanted, const DescriptorTable& living, std::size_t count,
                                 unsigned seed = 1) {
  auto plan = plan_descriptors(wanted, living, tasks(count));
  EXPECT_THAT(plan.refusals, IsEmpty());
  std::mt19937 random(seed);
  World world(living, wanted, plan, static_cast<int>(count));
  world.carry_out(random);
  world.expect_wanted();
  return plan;
}

constexpr RemoteFd in(int table, int fd) { return {.value = fd, .table = table}; }

// --- a parent and a child with a pipe between them, each of which has closed the other end

struct ParentAndChild {
  Builder wanted;
  std::size_t read_end, write_end;
  ParentAndChild() {
    read_end = wanted.file(pipe_end(9, false, "abc"));
    write_end = wanted.file(pipe_end(9, true));
    wanted.at(in(0, 3), read_end).at(in(1, 4), write_end);
  }
};

TEST(DescriptorTablesTest, UnreadBytesBetweenTwoTasksArePutBackByOneOfThem) {
  const ParentAndChild both;
  Builder living;
  living.at(in(0, 3), living.file(pipe_end(9, false, "a"))).at(in(1, 4), living.file(pipe_end(9, true)));
  const auto plan = expect_back(both.wanted.table, living.table, 2);
  EXPECT_THAT(diff::texts(plan), ElementsAre("task 100: give it a number of file 1", HasSubstr("task 100: pipe")));
}

TEST(DescriptorTablesTest, APipeThatTheChildHasClosedIsMadeAnewForBoth) {
  const ParentAndChild both;
  Builder living;
  living.at(in(0, 3), living.file(same(pipe_end(9, false, "abc"), 0)));
  const auto plan = expect_back(both.wanted.table, living.table, 2);
  EXPECT_THAT(diff::texts(plan), ElementsAre("task 100: make a pipe: read end file 0, write end file 1",
                                             "task 200: give it a number of file 1", "task 100: descriptor 3: file 0",
                                             "task 200: descriptor 4: file 1", "task 100: descriptor 3: status flags 0",
                                             HasSubstr("task 100")));
  ASSERT_THAT(plan.differences, SizeIs(1));
  EXPECT_EQ(plan.differences[0].object, "descriptor 4 of task 200 (pipe, write end)");
}

TEST(DescriptorTablesTest, ATableThatIsGoneGetsAllItsNumbersFromOthers) {
  const ParentAndChild both;
  Builder living;
  living.at(in(0, 3), living.file(same(pipe_end(9, false, "abc"), 0)))
      .at(in(0, 4), living.file(same(pipe_end(9, true), 1)));
  const auto plan = expect_back(both.wanted.table, living.table, 2);
  EXPECT_THAT(diff::texts(plan), ElementsAre("task 200: give it a number of file 1", "task 100: close descriptor 4",
                                             "task 200: descriptor 4: file 1"));
}

// --- one open file in three tables

Builder inherited() {
  Builder wanted;
  const std::size_t file = wanted.file(regular("/r", 7, 10));
  wanted.at(in(0, 5), file).at(in(1, 5), file).at(in(2, 5), file);
  return wanted;
}

TEST(DescriptorTablesTest, APositionThatThreeTablesShareIsPutRightOnce) {
  const Builder wanted = inherited();
  Builder living = wanted;
  living.table.open_files[0] = same(regular("/r", 7, 20), 0);
  const auto plan = expect_back(wanted.table, living.table, 3);
  EXPECT_THAT(diff::texts(plan), ElementsAre("task 100: descriptor 5: position 10"));
  EXPECT_THAT(plan.differences, SizeIs(1));
}

TEST(DescriptorTablesTest, AnInheritedDescriptorThatOneTableHasClosedComesFromAnother) {
  const Builder wanted = inherited();
  Builder living;
  const std::size_t file = living.file(same(regular("/r", 7, 10), 0));
  living.at(in(0, 5), file).at(in(2, 5), file);
  EXPECT_THAT(diff::texts(expect_back(wanted.table, living.table, 3)),
              ElementsAre("task 200: give it a number of file 0", "task 200: descriptor 5: file 0"));
}

TEST(DescriptorTablesTest, AnInheritedDescriptorThatAllHaveClosedIsTakenFromTheHoldsOnce) {
  const Builder wanted = inherited();
  const auto plan = expect_back(wanted.table, {}, 3);
  const auto all = diff::texts(plan);
  EXPECT_EQ(std::ranges::count(all, "task 100: give the task the held file 0"), 1);
  EXPECT_EQ(std::ranges::count_if(all, [](const auto& one) { return one.contains("position 10"); }), 1);
  EXPECT_EQ(std::ranges::count_if(all, [](const auto& one) { return one.contains("give it a number"); }), 2);
}

TEST(DescriptorTablesTest, TablesThatExchangeTheirFilesGoThroughSpareNumbers) {
  Builder wanted;
  wanted.at(in(0, 3), wanted.file(counter(1, 5))).at(in(1, 3), wanted.file(counter(2, 6)));
  Builder living;
  living.at(in(0, 3), living.file(same(counter(2, 6), 1))).at(in(1, 3), living.file(same(counter(1, 5), 0)));
  EXPECT_THAT(diff::texts(expect_back(wanted.table, living.table, 2)),
              ElementsAre("task 100: give it a number of file 0", "task 200: give it a number of file 1",
                          "task 100: descriptor 3: file 0", "task 200: descriptor 3: file 1"));
}

// --- socket pairs

TEST(DescriptorTablesTest, UnreadMessagesOfAPairAcrossTablesAreSentAgainByOneTask) {
  Builder wanted;
  wanted.at(in(0, 3), wanted.file(socket(51, 52, "ab"))).at(in(1, 4), wanted.file(socket(52, 51)));
  Builder living;
  living.at(in(0, 3), living.file(same(socket(51, 52), 0))).at(in(1, 4), living.file(same(socket(52, 51, "xyz"), 1)));
  EXPECT_THAT(diff::texts(expect_back(wanted.table, living.table, 2)),
              ElementsAre("task 100: give it a number of file 1", "task 100: socket 3: drop its unread messages",
                          HasSubstr("task 100: socket"), "task 100: socket of file 0: put its unread messages back"));
}

// --- epoll sets

TEST(DescriptorTablesTest, AnInheritedSetThatWatchesByTheNumberOfAnotherTableIsWatchedAsBefore) {
  // Both have the set and the counter; the parent has closed its counter since, the child has not: the entry is there.
  Builder wanted;
  const std::size_t set = wanted.file({.object = EpollSet{{{in(0, 4), EPOLLIN, 4}}}});
  const std::size_t file = wanted.file(counter(1, 0));
  wanted.at(in(0, 3), set).at(in(1, 3), set).at(in(0, 4), file).at(in(1, 4), file);
  Builder living;
  const std::size_t set_now = living.file({.object = EpollSet{{{in(1, 4), EPOLLIN | EPOLLOUT, 4}}}});
  const std::size_t file_now = living.file(same(counter(1, 0), 1));
  living.at(in(0, 3), set_now).at(in(1, 3), set_now).at(in(1, 4), file_now);
  EXPECT_THAT(diff::texts(expect_back(wanted.table, living.table, 2)),
              ElementsAre("task 100: give it a number of file 1", "task 100: descriptor 4: file 1",
                          "task 100: epoll set 3: watch again 4 for 0x1"));
}

TEST(DescriptorTablesTest, AnExclusiveEntryIsTakenOutAndAddedInOneTable) {
  Builder wanted;
  const std::size_t set = wanted.file({.object = EpollSet{{{in(0, 4), EPOLLIN | EPOLLEXCLUSIVE, 4}}}});
  const std::size_t file = wanted.file(counter(1, 0));
  wanted.at(in(0, 3), set).at(in(1, 3), set).at(in(0, 4), file).at(in(1, 4), file);
  Builder living;
  const std::size_t set_now = living.file({.object = EpollSet{{{in(1, 4), EPOLLIN, 4}}}});
  const std::size_t file_now = living.file(same(counter(1, 0), 1));
  living.at(in(0, 3), set_now).at(in(1, 3), set_now).at(in(1, 4), file_now);
  for (unsigned seed = 0; seed < 20; ++seed) expect_back(wanted.table, living.table, 2, seed);
}

TEST(DescriptorTablesTest, ASetWatchesTwoFilesByOneNumberOfTwoTables) {
  Builder wanted;
  const std::size_t set = wanted.file({.object = EpollSet{{{in(0, 4), EPOLLIN, 4}, {in(1, 4), EPOLLOUT, 5}}}});
  wanted.at(in(0, 3), set).at(in(1, 3), set);
  wanted.at(in(0, 4), wanted.file(counter(1, 0))).at(in(1, 4), wanted.file(counter(2, 0)));
  Builder living;
  const std::size_t set_now = living.file({.object = EpollSet{}});
  living.at(in(0, 3), set_now).at(in(1, 3), set_now).at(in(0, 4), living.file(same(counter(1, 0), 1)));
  expect_back(wanted.table, living.table, 2);
}

TEST(DescriptorTablesTest, ASetThatWatchesWhatATaskBornSinceHasIsMadeAnew) {
  Builder wanted;
  wanted.at(in(0, 3), wanted.file({.object = EpollSet{}}));
  Builder living;
  const std::size_t set = living.file({.object = EpollSet{{{in(1, 9), EPOLLIN, 1}}}});
  living.at(in(0, 3), set).at(in(1, 3), set).at(in(1, 9), living.file(counter(4, 0)));
  EXPECT_THAT(diff::texts(plan_descriptors(wanted.table, living.table, std::vector<model::Pid>{{100}})),
              ElementsAre("make an epoll set: file 0", "descriptor 3: file 0", "descriptor 3: status flags 0"));
}

// --- locks

FileLock posix(int table, std::uint64_t first, std::uint64_t last) {
  return {.kind = LockKind::posix, .mode = LockMode::read, .first = first, .last = last, .file = {}, .table = table};
}

TEST(DescriptorTablesTest, PosixLocksBelongToTheirTable) {
  Builder wanted;
  OpenFile file = regular("/r", 7);
  file.locks = {posix(0, 0, 1), posix(1, 4, 5)};
  const std::size_t index = wanted.file(file);
  wanted.at(in(0, 5), index).at(in(1, 5), index);
  Builder living = wanted;
  living.table.open_files[0].locks = {posix(0, 0, 1)};
  living.table.open_files[0].same_as = 0;
  EXPECT_THAT(diff::texts(expect_back(wanted.table, living.table, 2)),
              ElementsAre("task 200: file 0: take read lock on bytes 4 to 5 (POSIX)"));
  // A close in one table costs no lock of the other.
  living.at(in(1, 6), living.file(regular("/r", 7)));
  living.table.open_files[0].locks = file.locks;
  const auto plan = expect_back(wanted.table, living.table, 2);
  for (const auto& line : diff::texts(plan)) EXPECT_THAT(line, HasSubstr("task 200: "));
  EXPECT_THAT(plan.record, SizeIs(2));
}

// --- names

TEST(DescriptorTablesTest, TheTextsNameTheTask) {
  Builder wanted;
  wanted.at(in(1, 4), wanted.file({.object = model::DeviceFile{.path = "/dev/null", .identity = {1, 2}}}));
  wanted.table.open_files[0].watched = true;
  const auto plan = plan_descriptors(wanted.table, {}, tasks(2));
  ASSERT_THAT(plan.refusals, SizeIs(1));
  EXPECT_EQ(plan.refusals[0].object, "descriptor 4 of task 200 (/dev/null)");
}

// --- any tables to any others

class RandomTables {
 public:
  explicit RandomTables(unsigned seed) : random_(seed) {}

  unsigned below(unsigned limit) { return std::uniform_int_distribution<unsigned>(0, limit - 1)(random_); }
  std::mt19937& source() { return random_; }

  DescriptorTable wanted(int tables) {
    tables_ = tables;
    builder_ = {};
    for (unsigned i = 1 + below(6); i > 0; --i) add();
    for (unsigned i = below(8); i > 0; --i) share();
    for (OpenFile& file : builder_.table.open_files) fill(file);
    lock();
    watch();
    return builder_.table;
  }

  // What the tasks may have made of `table` since; `tables`: with those born since.
  DescriptorTable living(const DescriptorTable& table, int tables) {
    const int before = tables_;
    const int dead = below(4) == 0 ? static_cast<int>(below(static_cast<unsigned>(before))) : -1;
    tables_ = tables;
    builder_ = {};
    std::map<std::size_t, std::size_t> kept;
    for (std::size_t index = 0; index < table.open_files.size(); ++index) {
      if (below(4) == 0) continue;
      OpenFile file = table.open_files[index];
      file.locks.clear();
      file.watched = false;
      if (!std::holds_alternative<EpollSet>(file.object)) file.same_as = index;
      kept[index] = builder_.file(file);
    }
    for (const auto& d : table.descriptors) {
      if (!kept.contains(d.open_file) || d.fd.table == dead || below(4) == 0) continue;
      builder_.at(d.fd, kept[d.open_file], below(5) == 0 ? !d.close_on_exec : d.close_on_exec);
    }
    for (const auto& [index, file] : kept)
      if (std::ranges::find(builder_.table.descriptors, file, &model::Descriptor::open_file) ==
          builder_.table.descriptors.end())
        place(file, dead);
    for (unsigned i = below(3); i > 0; --i) add(dead);
    for (unsigned i = below(4); i > 0; --i) share(dead);
    for (OpenFile& file : builder_.table.open_files)
      if (below(2) == 0) fill(file);
    hang_up();
    lock();
    watch();
    return builder_.table;
  }

 private:
  void place(std::size_t file, int never = -1) {
    for (;;) {
      const RemoteFd fd = in(static_cast<int>(below(static_cast<unsigned>(tables_))), static_cast<int>(below(40)));
      if (fd.table == never && tables_ > 1) continue;
      if (builder_.find(fd) != nullptr) continue;
      builder_.at(fd, file, below(3) == 0);
      return;
    }
  }
  // As fork(2) does: the same number in another table.
  void share(int never = -1) {
    const auto all = builder_.table.descriptors;
    if (all.empty()) return;
    const auto& one = all[below(static_cast<unsigned>(all.size()))];
    const RemoteFd to = in(static_cast<int>(below(static_cast<unsigned>(tables_))),
                           below(3) == 0 ? static_cast<int>(below(40)) : one.fd.value);
    if (builder_.find(to) == nullptr && to.table != never) builder_.at(to, one.open_file, one.close_on_exec);
  }
  void add(int never = -1) {
    const std::uint64_t identity = ++identity_;
    switch (below(5)) {
      case 0:
        return place(builder_.file(regular("/r", 1 + below(3))), never);
      case 1:
        return place(builder_.file(counter(identity, 0)), never);
      case 2:
        return place(builder_.file({.status_flags = O_RDWR, .object = EpollSet{}}), never);
      case 3:
        place(builder_.file(pipe_end(identity, false)), never);
        return place(builder_.file(pipe_end(identity, true)), never);
      default:
        ++identity_;
        place(builder_.file(socket(identity, identity + 1)), never);
        return place(builder_.file(socket(identity + 1, identity)), never);
    }
  }
  void fill(OpenFile& file) {
    if (below(2) == 0) file.status_flags ^= O_NONBLOCK;
    if (below(4) == 0) file.owner = static_cast<int>(below(3));
    if (auto* const r = std::get_if<RegularFile>(&file.object)) r->position = below(100);
    if (auto* const e = std::get_if<EventCounter>(&file.object)) e->count = below(3);
    if (auto* const p = std::get_if<PipeEnd>(&file.object); p != nullptr && !p->write_end)
      p->bytes = bytes_of(std::string(below(3), 'x'));
    if (auto* const s = std::get_if<Socket>(&file.object)) {
      s->unread.clear();
      if (below(2) == 0) s->unread.push_back({.bytes = bytes_of(std::string(1 + below(3), 'm')), .from = {}});
    }
  }
  // Sockets whose other end nobody has any more.
  void hang_up() {
    for (OpenFile& file : builder_.table.open_files) {
      auto* const socket = std::get_if<Socket>(&file.object);
      if (socket == nullptr) continue;
      const bool there = std::ranges::any_of(builder_.table.open_files, [&](const OpenFile& other) {
        const auto* const peer = std::get_if<Socket>(&other.object);
        return peer != nullptr && peer->inode == socket->peer_inode;
      });
      if (there) continue;
      socket->peer_inode = 0;
      socket->state = SocketState::hung_up;
    }
  }
  void lock() {
    std::set<std::pair<int, std::uint64_t>> locked;  // one list of locks each
    for (const auto& d : builder_.table.descriptors) {
      OpenFile& file = builder_.table.open_files[d.open_file];
      const auto* const regular = std::get_if<RegularFile>(&file.object);
      if (regular == nullptr || below(3) != 0) continue;
      if (!locked.emplace(d.fd.table, regular->identity.inode).second) continue;
      const unsigned first = below(7);
      file.locks.push_back(posix(d.fd.table, first, first + below(8 - first)));
    }
    for (OpenFile& file : builder_.table.open_files)
      if (std::holds_alternative<RegularFile>(file.object) && below(6) == 0)
        file.locks.push_back({.kind = LockKind::flock, .mode = LockMode::read, .file = {}});
  }
  void watch() {
    for (std::size_t index = 0; index < builder_.table.open_files.size(); ++index) {
      auto* const set = std::get_if<EpollSet>(&builder_.table.open_files[index].object);
      if (set == nullptr) continue;
      set->entries.clear();
      std::set<std::pair<std::size_t, int>> watched;
      for (const auto& d : builder_.table.descriptors) {
        OpenFile& target = builder_.table.open_files[d.open_file];
        if (std::holds_alternative<EpollSet>(target.object) || std::holds_alternative<RegularFile>(target.object))
          continue;
        const bool has = std::ranges::any_of(builder_.table.descriptors, [&](const auto& other) {
          return other.open_file == index && other.fd.table == d.fd.table;
        });
        if (!has || !watched.emplace(d.open_file, d.fd.value).second || below(2) == 0) continue;
        std::uint32_t events = EPOLLIN;
        if (below(3) == 0) events |= EPOLLET;
        if (below(4) == 0) events |= EPOLLEXCLUSIVE;
        set->entries.push_back({d.fd, events, below(3)});
        target.watched = true;
      }
    }
  }

  std::mt19937 random_;
  Builder builder_;
  int tables_ = 1;
  std::uint64_t identity_ = 100;
};

TEST(DescriptorTablesTest, AnyTablesGoBackToAnyOthers) {
  for (unsigned seed = 0; seed < 6000; ++seed) {
    SCOPED_TRACE(seed);
    RandomTables random(seed);
    const int count = 2 + static_cast<int>(random.below(3));
    const int now = count + (random.below(3) == 0 ? 1 : 0);
    const DescriptorTable wanted = random.wanted(count);
    const DescriptorTable living = random.living(wanted, now);
    const auto plan = plan_descriptors(wanted, living, tasks(static_cast<std::size_t>(count)));
    ASSERT_THAT(plan.refusals, IsEmpty());
    World world(living, wanted, plan, count);
    world.carry_out(random.source());
    world.expect_wanted();
    if (HasFailure()) {
      for (const auto& line : diff::texts(plan)) ADD_FAILURE() << line;
      return;
    }
  }
}

}  // namespace
}  // namespace relive
