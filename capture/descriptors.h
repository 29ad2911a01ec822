// The descriptor table of a frozen task, read from outside.
//
// A held file that is still under its number is known by one kcmp(2), and its hold tells the rest. Every other
// descriptor is duplicated into this process for a moment (pidfd_getfd(2)); on the duplicate fcntl, lseek, fstat,
// getsockname, getsockopt, tee and MSG_PEEK tell everything without changing anything. Every duplicate is gone when the
// function returns. The fdinfo file is read only where nothing else tells: locks, epoll sets, eventfds, timers and the
// like. The parasite is asked for one thing: the close-on-exec flags, which belong to the numbers and not to the files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "capture/holds.h"
#include "model/descriptor.h"
#include "parasite/session.h"

namespace relive::capture {

// Reads the table. With a snapshot's table (and the holds that belong to it), OpenFile::same_as says which of the
// snapshot's descriptions still live: by kcmp(2) against a held duplicate, else by the object's own identity (pipe and
// socket inode, eventfd-id). Epoll sets have no identity: diff finds them by their numbers.
// REQUIRES: all threads share one table (capture/process.h refuses others).
// Errors: system.
// The task is unchanged after every one.
Result<model::DescriptorTable> read_descriptors(parasite::Visit& visit, const model::DescriptorTable* snapshot,
                                                const Holds* holds);

// Takes the keeper's own duplicates of what may be held (model::may_be_held) into Holds::open_files, and references to
// the files of what is opened anew (model::is_opened_anew) into Holds::references.
// REQUIRES: the task has stayed frozen since `table` was read.
Result<void> hold_descriptors(parasite::Visit& visit, const model::DescriptorTable& table, Holds& holds);

// Why a snapshot with this table must be refused; one line per descriptor, empty if it need not be.
[[nodiscard]] std::vector<std::string> unhandled(const model::DescriptorTable& table);

// The options of a socket of ours (a duplicate) that relive puts back. Options that cannot be read are left out.
[[nodiscard]] std::vector<model::SocketOption> read_socket_options(int socket, int family, int type);

// What the target of a link in /proc/PID/fd says of an object that is not handled ("anon_inode:[timerfd]" ->
// "timerfd"); empty if the link alone does not tell.
[[nodiscard]] std::string unhandled_kind(std::string_view link);

}  // namespace relive::capture
