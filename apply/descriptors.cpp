#include "apply/descriptors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "apply/addressed_sockets.h"
#include "apply/file_maker.h"
#include "apply/locks.h"
#include "apply/memory_file.h"
#include "apply/message_queue.h"
#include "apply/pipes.h"
#include "apply/self_contained.h"
#include "apply/socket_options.h"
#include "apply/sockets.h"
#include "apply/terminals.h"

namespace relive::apply {

namespace {

using model::OpenFile;
using model::RemoteFd;
using parasite::Program;

class Executor {
 public:
  Executor(Workshop& workshop, const model::DescriptorTable& wanted, const model::DescriptorTable& living)
      : workshop_(workshop), wanted_(wanted), living_(living), maker_(workshop) {}

  Result<void> prepare(const diff::DescriptorPlan& plan) {
    const std::vector<RemoteFd> numbers = numbers_of(wanted_);
    visit().keep_clear({}, numbers);
    RELIVE_TRY(check_limit(plan));
    for (const diff::LivingLocks& locks : plan.record) RELIVE_TRY(record_locks(maker_, locks.fd, locks.steps));
    for (const diff::DescriptorOperation& operation : plan.operations) {
      RELIVE_TRY(with_context(std::visit(*this, operation), diff::text(operation)));
    }
    maker_.close_spares();
    workshop_.notes.insert(workshop_.notes.end(), plan.notes.begin(), plan.notes.end());
    return {};
  }

  // ---------------------------------------------------------------- beside the living table
  Result<void> operator()(const diff::TakeHeld& op) {
    const auto held = workshop_.holds.open_files.find(op.file);
    if (held == workshop_.holds.open_files.end()) {
      return fail(ErrorKind::refused, fmt::format("{} is not held", model::describe(file(op.file))));
    }
    return maker_.give(op.file, held->second.get());
  }

  Result<void> operator()(const diff::OpenAnew& op) {
    const auto reference = workshop_.holds.references.find(op.file);
    if (reference == workshop_.holds.references.end())
      return fail(ErrorKind::refused, fmt::format("nothing leads to {} any more", model::describe(file(op.file))));
    return open_anew(maker_, op.file, file(op.file), reference->second.get());
  }

  Result<void> operator()(const diff::PutContents& op) {
    const auto copy = workshop_.holds.contents.find(op.file);
    const int contents = copy == workshop_.holds.contents.end() ? -1 : copy->second.get();
    const UniqueFd ours = RELIVE_TRY(visit().task().borrow(op.from ? *op.from : maker_.spare(op.file)));
    return put_contents(workshop_, ours.get(), *std::get<model::RegularFile>(file(op.file).object).memory, contents);
  }

  Result<void> operator()(const diff::TakeLocks& op) {
    return take_locks(maker_, op.from ? *op.from : maker_.spare(op.file), file(op.file), op.steps, op.back);
  }
  Result<void> operator()(const diff::CloseSpare& op) {
    FileMaker::close_in(workshop_.commit, maker_.spare(op.file));
    maker_.forget(op.file);
    return {};
  }
  Result<void> operator()(const diff::SetLocks& op) {
    if (op.exposed) RELIVE_TRY(refuse_waiters(file(op.file)));
    return set_locks(maker_, workshop_.commit, op.fd, op.steps,
                     op.go_on ? Program::OnError::go_on : Program::OnError::stop);
  }

  Result<void> operator()(const diff::TakeLiving& op) { return maker_.duplicate(op.file, op.from); }

  Result<void> operator()(const diff::MakePipe& op) {
    const OpenFile& some = file(op.read_end ? *op.read_end : op.write_end.value());
    const auto capacity = std::get<model::PipeEnd>(some.object).capacity;
    const auto [read_end, write_end] = RELIVE_TRY(maker_.make_two(
        "pipe", SYS_pipe2, [](std::uint64_t there) { return std::array<std::uint64_t, 4>{there, O_CLOEXEC, 0, 0}; }));
    {
      const UniqueFd writer = RELIVE_TRY(visit().task().borrow(write_end));
      const int now = ::fcntl(writer.get(), F_GETPIPE_SZ);
      if (now != static_cast<int>(capacity) && ::fcntl(writer.get(), F_SETPIPE_SZ, capacity) < 0) {
        return fail_errno("fcntl F_SETPIPE_SZ", "a new pipe");
      }
      if (op.read_end) RELIVE_TRY(fill_pipe(writer.get(), std::get<model::PipeEnd>(file(*op.read_end).object)));
    }
    RELIVE_TRY(keep_or_close(op.read_end, read_end));
    return keep_or_close(op.write_end, write_end);
  }

  Result<void> operator()(const diff::MakeSelfContained& op) {
    return std::visit(
        [&]<class T>(const T& object) -> Result<void> {
          if constexpr (model::SelfContained<T>) return make(maker_, op.file, object);
          return fail(ErrorKind::system, "not self-contained");
        },
        file(op.file).object);
  }

  Result<void> operator()(const diff::OpenTerminal& op) {
    return open_terminal(maker_, op.file, file(op.file), living_);
  }

  Result<void> operator()(const diff::MakeEpollSet& op) {
    return maker_.make_one(op.file, "epoll set", SYS_epoll_create1, {EPOLL_CLOEXEC, 0, 0});
  }

  Result<void> operator()(const diff::MakeSocket& op) { return carry_out(maker_, wanted_, op); }
  Result<void> operator()(const diff::MakeSocketPair& op) { return carry_out(maker_, wanted_, op); }
  Result<void> operator()(const diff::MakeConnection& op) { return carry_out(maker_, wanted_, op); }
  Result<void> operator()(const diff::MakeHungUp& op) { return carry_out(maker_, wanted_, op); }
  Result<void> operator()(const diff::ConnectSocket& op) { return carry_out(maker_, wanted_, op); }
  Result<void> operator()(const diff::FillSocket& op) { return carry_out(maker_, wanted_, op); }
  Result<void> operator()(const diff::SetOption& op) { return carry_out(maker_, op); }
  Result<void> operator()(const diff::MoveSocket& op) { return carry_out(maker_, wanted_, living_, op); }

  // ---------------------------------------------------------------- the commit program
  Result<void> operator()(const diff::Unwatch& op) {
    maker_.commit(fmt::format("epoll_ctl {} DEL {}", op.epoll.value, op.fd.value), SYS_epoll_ctl,
                  {FileMaker::number(op.epoll), EPOLL_CTL_DEL, FileMaker::number(op.fd), 0});
    return {};
  }

  Result<void> operator()(const diff::CloseDescriptor& op) {
    FileMaker::close_in(workshop_.commit, op.fd);
    return {};
  }

  Result<void> operator()(const diff::Place& op) {
    const RemoteFd from = op.from ? *op.from : maker_.spare(op.file);
    maker_.commit(fmt::format("dup3 {} -> {}", from.value, op.to.value), SYS_dup3,
                  {FileMaker::number(from), FileMaker::number(op.to), op.close_on_exec ? std::uint64_t{O_CLOEXEC} : 0});
    return {};
  }

  Result<void> operator()(const diff::SetCloseOnExec& op) {
    maker_.commit(fmt::format("fcntl {} F_SETFD", op.fd.value), SYS_fcntl,
                  {FileMaker::number(op.fd), F_SETFD, op.on ? std::uint64_t{FD_CLOEXEC} : 0});
    return {};
  }

  Result<void> operator()(const diff::SetStatusFlags& op) {
    maker_.set_flags(op.fd, op.flags);
    return {};
  }

  Result<void> operator()(const diff::SetOwner& op) {
    if (op.owner != 0 && ::kill(op.type == F_OWNER_PGRP ? -op.owner : op.owner, 0) != 0 && errno == ESRCH) {
      return fail(ErrorKind::refused,
                  fmt::format("descriptor {}: the process {} that its signals go to (F_SETOWN) has ended", op.fd.value,
                              op.owner));
    }
    const f_owner_ex owner{.type = static_cast<decltype(f_owner_ex::type)>(op.owner == 0 ? F_OWNER_PID : op.type),
                           .pid = op.owner};
    const auto there = RELIVE_TRY(visit().arena().put_value(owner));
    maker_.commit(fmt::format("fcntl {} F_SETOWN_EX", op.fd.value), SYS_fcntl,
                  {FileMaker::number(op.fd), F_SETOWN_EX, there.value});
    maker_.commit(fmt::format("fcntl {} F_SETSIG", op.fd.value), SYS_fcntl,
                  {FileMaker::number(op.fd), F_SETSIG, static_cast<std::uint64_t>(op.signal)});
    return {};
  }

  Result<void> operator()(const diff::Seek& op) {
    maker_.commit(fmt::format("lseek {} {}", op.fd.value, op.position), SYS_lseek,
                  {FileMaker::number(op.fd), static_cast<std::uint64_t>(op.position), SEEK_SET});
    return {};
  }

  Result<void> operator()(const diff::RefillPipe& op) {
    RELIVE_TRY(maker_.drain(op.read_end, op.read_flags));
    return refill_pipe(maker_, op.write_end, flags_under(op.write_end), std::get<model::PipeEnd>(file(op.file).object));
  }

  Result<void> operator()(const diff::PutRight& op) {
    return std::visit(
        [&]<class T>(const T& object) -> Result<void> {
          if constexpr (model::SelfContained<T> || std::is_same_v<T, model::Terminal> ||
                        std::is_same_v<T, model::MessageQueue>)
            return put_right(maker_, op.fd, file(op.file).status_flags, object,
                             std::get<T>(living_.open_files.at(op.living).object));
          return fail(ErrorKind::system, "not self-contained");
        },
        file(op.file).object);
  }

  Result<void> operator()(const diff::EmptySocket& op) {
    return maker_.drain(op.fd, op.flags, FileMaker::Drain::messages);
  }
  Result<void> operator()(const diff::RefillSocket& op) { return carry_out(maker_, wanted_, living_, op); }
  Result<void> operator()(const diff::ShutDown& op) { return carry_out(maker_, op); }
  Result<void> operator()(const diff::Listen& op) { return carry_out(maker_, op); }

  Result<void> operator()(const diff::Watch& op) {
    epoll_event event{};
    event.events = op.events;
    event.data.u64 = op.data;
    const auto there = RELIVE_TRY(visit().arena().put_value(event));
    maker_.commit(fmt::format("epoll_ctl {} {} {}", op.epoll.value, op.modify ? "MOD" : "ADD", op.fd.value),
                  SYS_epoll_ctl,
                  {FileMaker::number(op.epoll), static_cast<std::uint64_t>(op.modify ? EPOLL_CTL_MOD : EPOLL_CTL_ADD),
                   FileMaker::number(op.fd), there.value});
    return {};
  }

 private:
  parasite::Visit& visit() { return workshop_.visit; }
  [[nodiscard]] const OpenFile& file(std::size_t index) const { return wanted_.open_files.at(index); }
  // The status flags of the wanted file under a number.
  [[nodiscard]] std::uint32_t flags_under(RemoteFd fd) const {
    const auto found = std::ranges::lower_bound(wanted_.descriptors, fd, {}, &model::Descriptor::fd);
    return found != wanted_.descriptors.end() && found->fd == fd ? file(found->open_file).status_flags : 0;
  }
  // The numbers of the wanted table must be within the limit that dup3(2) meets.
  Result<void> check_limit(const diff::DescriptorPlan& plan) {
    RemoteFd highest{-1};
    for (const diff::DescriptorOperation& operation : plan.operations) {
      if (const auto* const place = std::get_if<diff::Place>(&operation)) highest = std::max(highest, place->to);
    }
    if (highest.value < 0) return {};
    const auto there = RELIVE_TRY(visit().arena().take(sizeof(rlimit)));
    RELIVE_TRY(visit().syscall("prlimit RLIMIT_NOFILE", SYS_prlimit64, {0, RLIMIT_NOFILE, 0, there.there.value}));
    rlimit limit{};
    std::memcpy(&limit, there.here, sizeof limit);
    if (FileMaker::number(highest) < limit.rlim_cur) return {};
    return fail(ErrorKind::refused,
                fmt::format("descriptor {} was closed since, and RLIMIT_NOFILE of the task is {}", highest.value,
                            limit.rlim_cur),
                "raise the task's RLIMIT_NOFILE (prlimit(1))");
  }

  Result<void> keep_or_close(const std::optional<std::size_t>& index, RemoteFd spare) {
    if (!index) return maker_.close(spare);
    maker_.keep(*index, spare);
    return {};
  }

  Workshop& workshop_;
  const model::DescriptorTable& wanted_;
  const model::DescriptorTable& living_;
  FileMaker maker_;
};

}  // namespace

Result<void> prepare_descriptors(Workshop& workshop, const diff::DescriptorPlan& plan,
                                 const model::DescriptorTable& wanted, const model::DescriptorTable& living) {
  return with_context(Executor(workshop, wanted, living).prepare(plan), "preparing the descriptor table");
}

Result<void> settle_locks(Workshop& workshop, const diff::DescriptorPlan& plan) {
  FileMaker maker(workshop);
  for (const diff::SetLocks& locks : plan.last)
    RELIVE_TRY(set_locks(maker, workshop.cleanup, locks.fd, locks.steps, Program::OnError::stop));
  return {};
}

std::vector<RemoteFd> numbers_of(const model::DescriptorTable& table) {
  std::vector<RemoteFd> numbers;
  numbers.reserve(table.descriptors.size());
  for (const model::Descriptor& descriptor : table.descriptors) numbers.push_back(descriptor.fd);
  return numbers;
}

}  // namespace relive::apply
