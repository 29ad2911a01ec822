// What differs between the descriptor tables of a tree and those of its snapshot, and what removes the difference.
// Pure.
//
// A tree has a table for each of its tasks, or one for several (CLONE_FILES); the open files behind them are one list.
// A wanted open file is first looked for among the living ones: the very same description (OpenFile::same_as), or, for
// objects that live inside the task only (pipes, eventfds, epoll sets, socket pairs, listening sockets), one of the
// same kind at the same number: which of two such objects stands there makes no difference to the program, and what it
// holds is put right in place. What is not found is taken from the keeper's holds, or made anew beside the living
// table, or refused by name.
//
// Then every wanted number is filled: where it already names the right file nothing is done, else dup3(2) puts the file
// there from a number that keeps it, or from a spare. So numbers may be permuted at will.
//
// Each table's operations are carried out by one of its tasks. What is done to an open file, and not to a number, is
// done once, in the file's *home*: the lowest table that has it, of all the files that are put right together with it
// (two ends of a pipe, a socket and who sends to it). A table that needs a file which it cannot have by itself gets a
// spare number of it while everything is prepared (Import): what is committed in one table never depends on what is
// committed in another, so that the tasks may finish alone and in any order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "diff/difference.h"
#include "diff/locks.h"
#include "model/descriptor.h"

namespace relive::diff {

// `file` is an index into the wanted table's open_files throughout.

// A spare number is known when it has been taken: until then this stands for the one of a wanted file in a table.
[[nodiscard]] constexpr model::RemoteFd spare_number(std::size_t file, int table) {
  return {.value = -2 - static_cast<int>(file), .table = table};
}
// The file, of what spare_number() gave; else none.
[[nodiscard]] constexpr std::optional<std::size_t> spare_file(model::RemoteFd fd) {
  if (fd.value > -2) return std::nullopt;
  return static_cast<std::size_t>(-2 - fd.value);
}

// --- prepared beside the living table; all that can fail
struct TakeHeld {  // the keeper's duplicate goes to a spare number
  std::size_t file;
};
struct OpenAnew {  // a file with locks that may not be held: opened again through the keeper's reference to it
  std::size_t file;
};
struct TakeLiving {  // a second number for a living file that the table is about to lose or move
  std::size_t file;
  model::RemoteFd from;
};
struct Import {  // a table gets a spare number of a file that it does not have
  std::size_t file;
  int table;
  std::optional<model::RemoteFd> from;  // a number in a living table; none: its spare number at home
};
struct MakePipe {  // with its unread bytes and capacity; an end that is not wanted is closed
  std::optional<std::size_t> read_end;
  std::optional<std::size_t> write_end;
};
struct OpenNamedPipe {  // another end of a pipe that is there, or a new one in a file that nobody has open
  std::size_t file;
};
struct MakeSelfContained {  // eventfd, timerfd ... (model/self_contained.h)
  std::size_t file;
  std::string kind;
};
struct OpenTerminal {  // by its name, and put right
  std::size_t file;
};
struct MakeEpollSet {  // empty; Watch fills it
  std::size_t file;
};
// An entry of the new epoll set `file` for the open file `target` by a number that leads elsewhere: the number does not
// matter to the kernel once the entry is there. Prepared.
struct WatchByOldNumber {
  std::size_t file;
  std::size_t target;
  std::optional<model::RemoteFd> from;  // of the living file; none: it is made, too
  int number;
  std::uint32_t events;
  std::uint64_t data;
};
struct MakeSocket {  // fresh, bound or listening
  std::size_t file;
};
struct MakeSocketPair {  // with the unread messages of both
  std::size_t first;
  std::size_t second;
};
struct MakeConnection {  // both ends of a TCP connection, with the unread bytes of both
  std::size_t first;
  std::size_t second;
};
struct MakeHungUp {  // a socket whose peer is gone: what was unread, then end of file
  std::size_t file;
};
struct ConnectSocket {  // a new datagram socket, to the address of its peer
  std::size_t file;
  bool outside;  // the peer is not the task's own, and may be gone
};
// Unread messages are sent again, by those who sent them: an index, or nobody with a name.
using Senders = std::vector<std::optional<std::size_t>>;
struct FillSocket {  // a new datagram socket
  std::size_t file;
  Senders senders;
  std::vector<std::optional<model::RemoteFd>> numbers;  // of the senders in the living table; none: to be made as well
};
struct SetOption {       // on a living socket; nobody runs who could see it before commit, and it can be undone
  model::RemoteFd from;  // its number in the living table
  model::SocketOption option;
  std::vector<model::SocketOption> back;  // in this order; none where it is not known what the option was
};
struct MoveSocket {  // a living socket that sends to addresses: to its wanted address, and to whom it is connected
  std::size_t file;
  std::size_t living;    // index into the living table's open_files
  model::RemoteFd from;  // its number in the living table
};

struct PutContents {  // into a memfd: its size and what it held
  std::size_t file;
  std::optional<model::RemoteFd> from;  // its number in the living table; none: its spare number
};
struct TakeLocks {
  std::size_t file;
  std::optional<model::RemoteFd> from;  // its number in the living table; none: its spare number
  std::vector<LockStep> steps;
  std::vector<LockStep> back;
  int table = 0;
};

// --- committed, in this order
struct Unwatch {  // while the numbers are still the living table's
  model::RemoteFd epoll;
  model::RemoteFd fd;
};
struct CloseDescriptor {
  model::RemoteFd fd;
};
struct Place {
  std::size_t file;
  std::optional<model::RemoteFd> from;  // none: from the file's spare number
  model::RemoteFd to;
  bool close_on_exec;
};
struct SetCloseOnExec {
  model::RemoteFd fd;
  bool on;
};
struct SetStatusFlags {
  model::RemoteFd fd;
  std::uint32_t flags;
};
struct SetOwner {
  model::RemoteFd fd;
  std::int32_t type;
  std::int32_t owner;
  std::int32_t signal;
};
struct Seek {
  model::RemoteFd fd;
  std::int64_t position;
};
struct CloseSpare {  // before POSIX locks are set: its close would let go of them
  std::size_t file;
  int table = 0;
};
struct SetLocks {
  std::size_t file;
  model::RemoteFd fd;
  std::vector<LockStep> steps;
  bool exposed;  // a close has let go of them: refused beforehand where somebody waits for the lock
  bool go_on;    // whatever the kernel answers
};
struct RefillPipe {  // `file` is the read end, `read_flags` the status flags that it ends up with
  std::size_t file;
  model::RemoteFd read_end;
  model::RemoteFd write_end;
  std::uint32_t read_flags;
};
struct RefillNamedPipe {                // also its capacity
  std::size_t file;                     // a reading end, if the task has one
  std::optional<model::RemoteFd> from;  // its number in the living table; none: its spare number
  model::RemoteFd to;                   // its number in the wanted table
  bool through_helper;                  // another open file, which reads and writes: for the moment
};
struct PutRight {  // a self-contained object, or a terminal, that is still there
  std::size_t file;
  std::size_t living;  // index into the living table's open_files
  model::RemoteFd fd;
  std::string kind;
};
struct EmptySocket {  // what came since is dropped
  model::RemoteFd fd;
  std::uint32_t flags;  // the status flags that it ends up with
};
struct RefillSocket {
  std::size_t file;
  std::optional<std::size_t> living;  // index into the living table's open_files; none: made anew, of a pair
  Senders senders;
};
struct ShutDown {  // a new socket
  model::RemoteFd fd;
  int how;  // Socket::shutdown
};
struct Listen {
  model::RemoteFd fd;
  int backlog;
};
struct Watch {
  model::RemoteFd epoll;
  model::RemoteFd fd;
  std::uint32_t events;
  std::uint64_t data;
  bool modify;  // the entry is there; also used to arm an edge-triggered one anew
};

using DescriptorOperation =
    std::variant<TakeHeld, TakeLiving, Import, MakePipe, MakeSelfContained, OpenTerminal, MakeEpollSet,
                 WatchByOldNumber, MakeSocket, MakeSocketPair, MakeConnection, MakeHungUp, ConnectSocket, FillSocket,
                 SetOption, MoveSocket, OpenAnew, PutContents, TakeLocks, CloseSpare, SetLocks, Unwatch,
                 CloseDescriptor, Place, SetCloseOnExec, SetStatusFlags, SetOwner, Seek, RefillPipe, OpenNamedPipe,
                 RefillNamedPipe, PutRight, EmptySocket, RefillSocket, ShutDown, Listen, Watch>;

// One line for --dry-run: "close descriptor 9".
std::string text(const DescriptorOperation& operation);

// The POSIX locks that a task has now: what an undo of everything gives back, since the close of a spare number lets
// go of them.
struct LivingLocks {
  model::RemoteFd fd;
  std::vector<LockStep> steps;
};

struct DescriptorPlan {
  std::vector<Difference> differences;
  std::vector<Refusal> refusals;
  std::vector<DescriptorOperation> operations;  // in the order in which they are carried out
  std::vector<LivingLocks> record;              // noted before anything is prepared
  std::vector<SetLocks> last;                   // carried out when the commit has closed its last number
  std::vector<std::string> notes;               // "descriptor 9 (socket a -> b): connection kept"
  std::vector<int> homes;                       // by wanted file
  std::vector<model::Pid> tasks;                // by table: whose it is; empty where there is one table
};

// The table whose task carries an operation out.
[[nodiscard]] int table_of(const DescriptorOperation& operation, const DescriptorPlan& plan);
// The same line, with the task where there are several tables: "task 4242: close descriptor 9".
std::string text(const DescriptorOperation& operation, const DescriptorPlan& plan);
std::vector<std::string> texts(const DescriptorPlan& plan);

// REQUIRES: capture::unhandled(wanted) is empty; `living` was captured against `wanted`. A plan with refusals is not to
// be carried out. `tasks`: whose each wanted table is, where there are several (the first one's that shares it). Tables
// of `living` behind those are surplus: their tasks are going to end, so nothing is done in them.
DescriptorPlan plan_descriptors(const model::DescriptorTable& wanted, const model::DescriptorTable& living,
                                std::span<const model::Pid> tasks = {});

// The flags of open(2) that fcntl(F_SETFL) can change.
inline constexpr std::uint32_t kChangeableFlags = 02000 /* O_APPEND */ | 04000 /* O_NONBLOCK */ | 020000 /* O_ASYNC */ |
                                                  040000 /* O_DIRECT */ | 01000000 /* O_NOATIME */;

}  // namespace relive::diff
