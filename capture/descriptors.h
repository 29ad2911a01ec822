// The descriptor tables of frozen tasks, read from outside, as one.
//
// A held file that is still under its number is known by one kcmp(2), and its hold tells the rest. Every other
// descriptor is duplicated into this process for a moment (pidfd_getfd(2)); on the duplicate fcntl, lseek, fstat,
// getsockname, getsockopt, tee and MSG_PEEK tell everything without changing anything. Every duplicate is gone when the
// function returns. The fdinfo file is read only where nothing else tells: locks, epoll sets, eventfds, timers and the
// like. The parasite is asked for one thing: the close-on-exec flags, which belong to the numbers and not to the files.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "capture/holds.h"
#include "capture/table.h"
#include "model/descriptor.h"
#include "parasite/session.h"

namespace relive::capture {

// Reads the tables of a tree; `tables` names, by RemoteFd::table, a task that has it (table.h), and nobody where that
// table lives no more. Of a task at rest the numbers, and what they lead to, are taken from the snapshot; the open
// files themselves are looked at all the same. Open files that several tables lead to are one. With a snapshot's table
// (and the holds that belong to it), OpenFile::same_as says which of the snapshot's descriptions still live: by kcmp(2)
// against a held duplicate, else by the object's own identity (pipe and socket inode, eventfd-id). Epoll sets have no
// identity: diff finds them by their numbers. REQUIRES: all threads of a task share one table (capture/process.h
// refuses others); no table is named twice. Errors: system. The tasks are unchanged after every one.
Result<model::DescriptorTable> read_descriptors(std::span<const Table> tables, const model::DescriptorTable* snapshot,
                                                const FileHolds* holds);
// The same of tasks that are all visited.
Result<model::DescriptorTable> read_descriptors(std::span<parasite::Visit* const> tables,
                                                const model::DescriptorTable* snapshot, const FileHolds* holds);

// Takes the keeper's own duplicates of what may be held (model::may_be_held) into FileHolds::open_files, and references
// to the files of what is opened anew (model::is_opened_anew) into FileHolds::references.
// REQUIRES: the tasks have stayed frozen since `table` was read from them.
Result<void> hold_descriptors(std::span<parasite::Visit* const> tables, const model::DescriptorTable& table,
                              FileHolds& holds);

// What can only be seen by taking it: unread events of inotify instances (capture/event_queue.h). They are taken and
// put back. REQUIRES: nothing else is a reason to refuse the snapshot; `holds` has what hold_descriptors() has put
// there.
Result<void> look_into_queues(std::span<parasite::Visit* const> tables, model::DescriptorTable& table,
                              const FileHolds& holds);

// Why a snapshot with this table must be refused; one line per descriptor, empty if it need not be. Where `tasks` tells
// whose each of several tables is, one line per open file, by its first descriptor.
[[nodiscard]] std::vector<std::string> unhandled(const model::DescriptorTable& table,
                                                 std::span<const model::Pid> tasks = {});

// The options of a socket of ours (a duplicate) that relive puts back. Options that cannot be read are left out.
[[nodiscard]] std::vector<model::SocketOption> read_socket_options(int socket, int family, int type);

// What the target of a link in /proc/PID/fd says of an object that is not handled ("anon_inode:[timerfd]" ->
// "timerfd"); empty if the link alone does not tell.
[[nodiscard]] std::string unhandled_kind(std::string_view link);

}  // namespace relive::capture
