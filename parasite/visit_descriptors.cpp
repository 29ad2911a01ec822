// A visit: numbers of descriptors in the task, and what is handed to it.
#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/fault.h"
#include "base/number.h"
#include "parasite/visit_state.h"
#include "task/procfs.h"

namespace relive::parasite {

using model::RemoteFd;
using model::TaskAddress;

Result<void> Visit::learn_descriptors() {
  DescriptorNumbers& numbers = *state_->numbers;
  if (!numbers.known) {
    const std::string path = fmt::format("/proc/{}/fd", task_->pid().value);
    DIR* directory = ::opendir(path.c_str());
    if (directory == nullptr) return fail_errno("opendir", path);
    while (const dirent* entry = ::readdir(directory)) {
      if (const auto number = parse_number<int>(entry->d_name)) numbers.open.insert(*number);
    }
    ::closedir(directory);
    numbers.taken.insert(numbers.open.begin(), numbers.open.end());
    numbers.known = true;
  }
  if (state_->descriptor_limit != 0) return {};
  const std::string limits = RELIVE_TRY(task::read_proc(task_->pid(), "limits"));
  const std::string_view name = "Max open files";
  const auto line = limits.find(name);
  std::string_view rest =
      line == std::string::npos ? std::string_view{} : std::string_view(limits).substr(line + name.size());
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  state_->descriptor_limit = parse_number<int>(rest.substr(0, rest.find(' '))).value_or(1024);
  return {};
}

Result<RemoteFd> Visit::spare_descriptor() {
  RELIVE_TRY(learn_descriptors());
  std::set<int>& taken = state_->numbers->taken;
  // Behind the highest number in use, if the limit allows it; else the lowest that is free.
  int number = taken.empty() ? 0 : *taken.rbegin() + 1;
  // Two free numbers stay for what the kernel hands out by itself (give(), pipe2, ...).
  if (number >= state_->descriptor_limit) {
    number = 0;
    for (int left = 2; left > 0 || taken.contains(number); ++number)
      if (!taken.contains(number)) --left;
  }
  if (number >= state_->descriptor_limit)
    return fail(
        ErrorKind::refused,
        fmt::format("task {} has no descriptor number left (limit {})", task_->pid().value, state_->descriptor_limit),
        "raise RLIMIT_NOFILE of the task");
  taken.insert(number);
  return RemoteFd{number};
}

Result<std::vector<RemoteFd>> Visit::next_descriptors(std::size_t count) {
  RELIVE_TRY(learn_descriptors());
  std::vector<RemoteFd> next;
  for (int number = 0; next.size() < count; ++number) {
    if (!state_->numbers->open.contains(number)) next.push_back(RemoteFd{number});
  }
  return next;
}

void Visit::note_open(RemoteFd fd) { state_->numbers->open.insert(fd.value); }

void Visit::note_closed(RemoteFd fd) { state_->numbers->open.erase(fd.value); }

void Visit::note_own(RemoteFd fd) {
  note_open(fd);
  state_->numbers->own.insert(fd.value);
}

bool Visit::is_own_descriptor(RemoteFd fd) const { return state_->numbers->own.contains(fd.value); }

std::vector<RemoteFd> Visit::own_descriptors() const {
  std::vector<RemoteFd> own = state_->handles;
  if (state_->remote_channel >= 0) own.push_back(RemoteFd{state_->remote_channel});
  return own;
}

Result<void> Visit::open_channel() {
  if (state_->channel) return {};
  const RemoteFd spare = RELIVE_TRY(spare_descriptor());
  const ArenaPiece pair = RELIVE_TRY(arena().take(2 * sizeof(int)));
  RELIVE_TRY(record_undo("close the channel", SYS_close, {static_cast<std::uint64_t>(spare.value)}));
  // Until it is moved away it has the two lowest free numbers, and the keeper may die meanwhile.
  for (const RemoteFd end : RELIVE_TRY(next_descriptors(2)))
    RELIVE_TRY(record_undo("close an end of the channel", SYS_close, {static_cast<std::uint64_t>(end.value)}));
  RELIVE_TRY(syscall("socketpair for passing descriptors", SYS_socketpair,
                     {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair.there.value}));
  int ends[2];
  std::memcpy(ends, pair.here, sizeof ends);
  auto borrowed = task_->borrow(RemoteFd{ends[1]});
  Program settle;
  const auto high = static_cast<std::uint64_t>(ends[1]);
  const auto low = static_cast<std::uint64_t>(ends[0]);
  settle.syscall("close the far end", SYS_close, {high});
  if (ends[0] != spare.value) {
    settle.syscall("move the channel away", SYS_dup3, {low, static_cast<std::uint64_t>(spare.value), O_CLOEXEC});
    settle.syscall("close the near end", SYS_close, {low});
  }
  RELIVE_TRY(run(settle));
  state_->channel = RELIVE_TRY(std::move(borrowed));
  state_->remote_channel = spare.value;
  note_own(spare);
  return {};
}

Result<void> Visit::give(int fd, RemoteFd as) {
  RELIVE_TRY(learn_descriptors());
  RELIVE_TRY(open_channel());

  char byte = 0;
  iovec vector{.iov_base = &byte, .iov_len = 1};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = room;
  message.msg_controllen = sizeof room;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (::sendmsg(state_->channel.get(), &message, MSG_NOSIGNAL) != 1)
    return fail_errno("sendmsg", "a descriptor to the task");

  const ArenaPiece remote_room = RELIVE_TRY(arena().take(sizeof room));
  const ArenaPiece remote_byte = RELIVE_TRY(arena().take(8));
  const iovec remote_vector{.iov_base = reinterpret_cast<void*>(remote_byte.there.value), .iov_len = 1};
  msghdr remote_message{};
  remote_message.msg_iov = reinterpret_cast<iovec*>(RELIVE_TRY(arena().put_value(remote_vector)).value);
  remote_message.msg_iovlen = 1;
  remote_message.msg_control = reinterpret_cast<void*>(remote_room.there.value);
  remote_message.msg_controllen = sizeof room;
  const TaskAddress message_address = RELIVE_TRY(arena().put_value(remote_message));

  // The kernel takes the lowest free number; it is known, so that one program can receive and move.
  int lowest = 0;
  while (state_->numbers->open.contains(lowest)) ++lowest;
  const auto from = static_cast<std::uint64_t>(lowest);
  Program receive;
  receive.syscall(
      "receive a descriptor", SYS_recvmsg,
      {static_cast<std::uint64_t>(state_->remote_channel), message_address.value, MSG_CMSG_CLOEXEC | MSG_DONTWAIT});
  if (lowest != as.value) {
    receive.syscall(fmt::format("dup3 {} -> {}", lowest, as.value), SYS_dup3,
                    {from, static_cast<std::uint64_t>(as.value), O_CLOEXEC});
    receive.syscall(fmt::format("close {}", lowest), SYS_close, {from});
  }
  RELIVE_TRY(run(receive));
  note_open(as);
  return {};
}

}  // namespace relive::parasite
