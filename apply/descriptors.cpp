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
#include <memory>
#include <optional>
#include <utility>

#include "apply/addressed_sockets.h"
#include "apply/epoll.h"
#include "apply/file_maker.h"
#include "apply/locks.h"
#include "apply/memory_file.h"
#include "apply/message_queue.h"
#include "apply/named_pipes.h"
#include "apply/pipes.h"
#include "apply/self_contained.h"
#include "apply/socket_options.h"
#include "apply/sockets.h"
#include "apply/terminals.h"
#include "base/fault.h"
#include "diff/numbers.h"

namespace relive::apply {

namespace {

using model::OpenFile;
using model::RemoteFd;
using parasite::Program;

class Executor {
 public:
  Executor(std::span<Workshop* const> tables, const diff::DescriptorPlan& plan, const model::DescriptorTable& wanted,
           const model::DescriptorTable& living, std::span<parasite::Visit* const> holders)
      : plan_(plan), wanted_(wanted), living_(living), holders_(holders) {
    for (std::size_t table = 0; table < tables.size(); ++table) {
      makers_.push_back(
          tables[table] == nullptr ? nullptr : std::make_unique<FileMaker>(*tables[table], static_cast<int>(table)));
    }
  }

  Result<void> prepare() {
    for (std::size_t table = 0; table < makers_.size(); ++table) {
      if (makers_[table] == nullptr) continue;
      at_ = static_cast<int>(table);
      const std::vector<RemoteFd> numbers = numbers_of(wanted_, at_);
      visit().keep_clear({}, numbers);
      RELIVE_TRY(check_limit());
    }
    for (const diff::LivingLocks& locks : plan_.record)
      if (FileMaker* const maker = maker_of(locks.fd.table)) RELIVE_TRY(record_locks(*maker, locks.fd, locks.steps));
    for (const diff::DescriptorOperation& operation : plan_.operations) {
      at_ = diff::table_of(operation, plan_);
      if (maker_of(at_) == nullptr)
        return fail(ErrorKind::system, fmt::format("{}: nobody has descriptor table {}", diff::text(operation), at_));
      RELIVE_TRY(with_context(carry_out_known(operation), diff::text(operation, plan_)));
    }
    for (const auto& maker : makers_)
      if (maker != nullptr) maker->close_spares();
    at_ = 0;
    while (maker_of(at_) == nullptr && static_cast<std::size_t>(at_) < makers_.size()) ++at_;
    if (FileMaker* const maker = maker_of(at_)) {
      auto& notes = maker->workshop().notes;
      notes.insert(notes.end(), plan_.notes.begin(), plan_.notes.end());
    }
    return {};
  }

  // ---------------------------------------------------------------- beside the living table
  Result<void> operator()(const diff::TakeHeld& op) {
    const auto held = workshop().files.open_files.find(op.file);
    if (held == workshop().files.open_files.end()) {
      return fail(ErrorKind::refused, fmt::format("{} is not held", model::describe(file(op.file))));
    }
    return maker().give(op.file, held->second.get());
  }

  Result<void> operator()(const diff::OpenAnew& op) {
    const auto reference = workshop().files.references.find(op.file);
    if (reference == workshop().files.references.end())
      return fail(ErrorKind::refused, fmt::format("nothing leads to {} any more", model::describe(file(op.file))));
    return open_anew(maker(), op.file, file(op.file), reference->second.get());
  }

  Result<void> operator()(const diff::PutContents& op) {
    const auto copy = workshop().files.contents.find(op.file);
    const int contents = copy == workshop().files.contents.end() ? -1 : copy->second.get();
    const UniqueFd ours = RELIVE_TRY(borrow(op.file, op.from));
    return put_contents(workshop(), ours.get(), *std::get<model::RegularFile>(file(op.file).object).memory, contents);
  }

  Result<void> operator()(const diff::TakeLocks& op) {
    return take_locks(maker(), op.from ? *op.from : maker().spare(op.file), file(op.file), op.steps, op.back);
  }
  Result<void> operator()(const diff::CloseSpare& op) {
    FileMaker::close_in(workshop().commit, maker().spare(op.file));
    maker().forget(op.file);
    return {};
  }
  Result<void> operator()(const diff::SetLocks& op) {
    if (op.exposed) RELIVE_TRY(refuse_waiters(file(op.file)));
    return set_locks(maker(), workshop().commit, op.fd, op.steps,
                     op.go_on ? Program::OnError::go_on : Program::OnError::stop);
  }

  Result<void> operator()(const diff::TakeLiving& op) { return maker().duplicate(op.file, op.from); }

  Result<void> operator()(const diff::Import& op) {
    const UniqueFd ours = RELIVE_TRY(borrow(op.file, op.from));
    return maker().give(op.file, ours.get());
  }

  Result<void> operator()(const diff::MakePipe& op) {
    const OpenFile& some = file(op.read_end ? *op.read_end : op.write_end.value());
    const auto capacity = std::get<model::PipeEnd>(some.object).capacity;
    const auto [read_end, write_end] = RELIVE_TRY(maker().make_two(
        "pipe", SYS_pipe2, [](std::uint64_t there) { return std::array<std::uint64_t, 4>{there, O_CLOEXEC, 0, 0}; }));
    {
      const UniqueFd writer = RELIVE_TRY(visit().task().borrow(write_end));
      const int now = ::fcntl(writer.get(), F_GETPIPE_SZ);
      if (now != static_cast<int>(capacity) && ::fcntl(writer.get(), F_SETPIPE_SZ, capacity) < 0) {
        return fail_errno("fcntl F_SETPIPE_SZ", "a new pipe");
      }
      if (op.read_end) RELIVE_TRY(fill_pipe(writer.get(), contents_of(file(*op.read_end))));
    }
    RELIVE_TRY(keep_or_close(op.read_end, read_end));
    return keep_or_close(op.write_end, write_end);
  }

  Result<void> operator()(const diff::OpenNamedPipe& op) { return carry_out(maker(), file(op.file), op); }
  Result<void> operator()(const diff::RefillNamedPipe& op) { return carry_out(maker(), file(op.file), op); }

  Result<void> operator()(const diff::MakeSelfContained& op) {
    return std::visit(
        [&]<class T>(const T& object) -> Result<void> {
          if constexpr (model::SelfContained<T>) return make(maker(), op.file, object);
          return fail(ErrorKind::system, "not self-contained");
        },
        file(op.file).object);
  }

  Result<void> operator()(const diff::OpenTerminal& op) {
    return open_terminal(maker(), op.file, file(op.file), living_);
  }

  Result<void> operator()(const diff::MakeEpollSet& op) {
    return maker().make_one(op.file, "epoll set", SYS_epoll_create1, {EPOLL_CLOEXEC, 0, 0});
  }

  Result<void> operator()(const diff::WatchByOldNumber& op) {
    RELIVE_TRY(fault_point("epoll entry by an old number"));
    const UniqueFd set = RELIVE_TRY(borrow(op.file, std::nullopt));
    const UniqueFd target = RELIVE_TRY(borrow(op.target, op.from));
    epoll_event event{};
    event.events = op.events;
    event.data.u64 = op.data;
    return watch_by_number(set.get(), target.get(), op.number, event);
  }
  Result<void> operator()(const diff::MakeSocket& op) { return carry_out(maker(), wanted_, op); }
  Result<void> operator()(const diff::MakeSocketPair& op) { return carry_out(maker(), wanted_, op); }
  Result<void> operator()(const diff::MakeConnection& op) { return carry_out(maker(), wanted_, op); }
  Result<void> operator()(const diff::MakeHungUp& op) { return carry_out(maker(), wanted_, op); }
  Result<void> operator()(const diff::ConnectSocket& op) { return carry_out(maker(), wanted_, op); }
  Result<void> operator()(const diff::FillSocket& op) { return carry_out(maker(), wanted_, op); }
  Result<void> operator()(const diff::SetOption& op) { return carry_out(maker(), op); }
  Result<void> operator()(const diff::MoveSocket& op) { return carry_out(maker(), wanted_, living_, op); }

  // ---------------------------------------------------------------- the commit program
  Result<void> operator()(const diff::Unwatch& op) {
    maker().commit(fmt::format("epoll_ctl {} DEL {}", op.epoll.value, op.fd.value), SYS_epoll_ctl,
                   {FileMaker::number(op.epoll), EPOLL_CTL_DEL, FileMaker::number(op.fd), 0});
    return {};
  }

  Result<void> operator()(const diff::CloseDescriptor& op) {
    FileMaker::close_in(workshop().commit, op.fd);
    return {};
  }

  Result<void> operator()(const diff::Place& op) {
    const RemoteFd from = op.from ? *op.from : maker().spare(op.file);
    maker().commit(
        fmt::format("dup3 {} -> {}", from.value, op.to.value), SYS_dup3,
        {FileMaker::number(from), FileMaker::number(op.to), op.close_on_exec ? std::uint64_t{O_CLOEXEC} : 0});
    return {};
  }

  Result<void> operator()(const diff::SetCloseOnExec& op) {
    maker().commit(fmt::format("fcntl {} F_SETFD", op.fd.value), SYS_fcntl,
                   {FileMaker::number(op.fd), F_SETFD, op.on ? std::uint64_t{FD_CLOEXEC} : 0});
    return {};
  }

  Result<void> operator()(const diff::SetStatusFlags& op) {
    maker().set_flags(op.fd, op.flags);
    return {};
  }

  Result<void> operator()(const diff::SetOwner& op) {
    if (op.owner != 0 && ::kill(op.type == F_OWNER_PGRP ? -op.owner : op.owner, 0) != 0 && errno == ESRCH) {
      return fail(ErrorKind::refused, fmt::format("{}: the process {} that its signals go to (F_SETOWN) has ended",
                                                  model::name_of(op.fd, plan_.tasks), op.owner));
    }
    const f_owner_ex owner{.type = static_cast<decltype(f_owner_ex::type)>(op.owner == 0 ? F_OWNER_PID : op.type),
                           .pid = op.owner};
    const auto there = RELIVE_TRY(visit().arena().put_value(owner));
    maker().commit(fmt::format("fcntl {} F_SETOWN_EX", op.fd.value), SYS_fcntl,
                   {FileMaker::number(op.fd), F_SETOWN_EX, there.value});
    maker().commit(fmt::format("fcntl {} F_SETSIG", op.fd.value), SYS_fcntl,
                   {FileMaker::number(op.fd), F_SETSIG, static_cast<std::uint64_t>(op.signal)});
    return {};
  }

  Result<void> operator()(const diff::Seek& op) {
    maker().commit(fmt::format("lseek {} {}", op.fd.value, op.position), SYS_lseek,
                   {FileMaker::number(op.fd), static_cast<std::uint64_t>(op.position), SEEK_SET});
    return {};
  }

  Result<void> operator()(const diff::RefillPipe& op) {
    RELIVE_TRY(maker().drain(op.read_end, op.read_flags));
    return refill_pipe(maker(), op.write_end, flags_under(op.write_end), contents_of(file(op.file)));
  }

  Result<void> operator()(const diff::PutRight& op) {
    return std::visit(
        [&]<class T>(const T& object) -> Result<void> {
          if constexpr (model::SelfContained<T> || std::is_same_v<T, model::Terminal> ||
                        std::is_same_v<T, model::MessageQueue>)
            return put_right(maker(), op.fd, file(op.file).status_flags, object,
                             std::get<T>(living_.open_files.at(op.living).object));
          return fail(ErrorKind::system, "not self-contained");
        },
        file(op.file).object);
  }

  Result<void> operator()(const diff::EmptySocket& op) {
    return maker().drain(op.fd, op.flags, FileMaker::Drain::messages);
  }
  Result<void> operator()(const diff::RefillSocket& op) { return carry_out(maker(), wanted_, living_, op); }
  Result<void> operator()(const diff::ShutDown& op) { return carry_out(maker(), op); }
  Result<void> operator()(const diff::Listen& op) { return carry_out(maker(), op); }

  Result<void> operator()(const diff::Watch& op) {
    epoll_event event{};
    event.events = op.events;
    event.data.u64 = op.data;
    const auto there = RELIVE_TRY(visit().arena().put_value(event));
    maker().commit(fmt::format("epoll_ctl {} {} {}", op.epoll.value, op.modify ? "MOD" : "ADD", op.fd.value),
                   SYS_epoll_ctl,
                   {FileMaker::number(op.epoll), static_cast<std::uint64_t>(op.modify ? EPOLL_CTL_MOD : EPOLL_CTL_ADD),
                    FileMaker::number(op.fd), there.value});
    return {};
  }

 private:
  // Who carries out the operation at hand.
  FileMaker& maker() { return *makers_[static_cast<std::size_t>(at_)]; }
  Workshop& workshop() { return maker().workshop(); }
  parasite::Visit& visit() { return workshop().visit; }
  // Null where nobody has the table.
  [[nodiscard]] FileMaker* maker_of(int table) const {
    const auto index = static_cast<std::size_t>(table);
    return index < makers_.size() ? makers_[index].get() : nullptr;
  }
  // Our duplicate: of a number in a living table, or of the file's spare number at home.
  Result<UniqueFd> borrow(std::size_t file, const std::optional<RemoteFd>& living) const {
    FileMaker* const from = maker_of(living ? living->table : plan_.homes.at(file));
    if (living && from == nullptr)
      if (const auto index = static_cast<std::size_t>(living->table);
          index < holders_.size() && holders_[index] != nullptr)
        return holders_[index]->task().borrow(*living);
    if (from == nullptr)
      return fail(ErrorKind::system, fmt::format("nobody has {}", model::describe(this->file(file))));
    return living ? from->visit().task().borrow(*living) : from->borrow(file);
  }
  // With the spare numbers that the plan could not know.
  Result<void> carry_out_known(diff::DescriptorOperation operation) {
    return std::visit(
        [&](auto& one) {
          diff::for_each_number_of(one, [&](RemoteFd& fd) {
            if (const auto spare = diff::spare_file(fd)) fd = {.value = maker().spare(*spare).value, .table = fd.table};
          });
          return (*this)(std::as_const(one));
        },
        operation);
  }
  [[nodiscard]] const OpenFile& file(std::size_t index) const { return wanted_.open_files.at(index); }
  [[nodiscard]] static PipeContents contents_of(const OpenFile& file) {
    const auto& pipe = std::get<model::PipeEnd>(file.object);
    return {.bytes = pipe.bytes, .pieces = pipe.pieces};
  }
  // The status flags of the wanted file under a number, a spare one or its own.
  [[nodiscard]] std::uint32_t flags_under(RemoteFd fd) {
    if (const auto spare = maker().file_at(fd); spare && *spare < wanted_.open_files.size())
      return file(*spare).status_flags;
    const auto found = std::ranges::lower_bound(wanted_.descriptors, fd, {}, &model::Descriptor::fd);
    return found != wanted_.descriptors.end() && found->fd == fd ? file(found->open_file).status_flags : 0;
  }
  // The numbers of the wanted table must be within the limit that dup3(2) meets.
  Result<void> check_limit() {
    RemoteFd highest{-1};
    for (const diff::DescriptorOperation& operation : plan_.operations) {
      const auto* const place = std::get_if<diff::Place>(&operation);
      if (place != nullptr && place->to.table == at_ && place->to.value > highest.value) highest = place->to;
    }
    if (highest.value < 0) return {};
    const auto there = RELIVE_TRY(visit().arena().take(sizeof(rlimit)));
    RELIVE_TRY(visit().syscall("prlimit RLIMIT_NOFILE", SYS_prlimit64, {0, RLIMIT_NOFILE, 0, there.there.value}));
    rlimit limit{};
    std::memcpy(&limit, there.here, sizeof limit);
    if (FileMaker::number(highest) < limit.rlim_cur) return {};
    return fail(ErrorKind::refused,
                fmt::format("{} was closed since, and RLIMIT_NOFILE of the task is {}",
                            model::name_of(highest, plan_.tasks), limit.rlim_cur),
                "raise the task's RLIMIT_NOFILE (prlimit(1))");
  }

  Result<void> keep_or_close(const std::optional<std::size_t>& index, RemoteFd spare) {
    if (!index) return maker().close(spare);
    maker().keep(*index, spare);
    return {};
  }

  const diff::DescriptorPlan& plan_;
  const model::DescriptorTable& wanted_;
  const model::DescriptorTable& living_;
  std::span<parasite::Visit* const> holders_;
  std::vector<std::unique_ptr<FileMaker>> makers_;  // by table
  int at_ = 0;                                      // the table at hand
};

}  // namespace

Result<void> prepare_descriptors(std::span<Workshop* const> tables, const diff::DescriptorPlan& plan,
                                 const model::DescriptorTable& wanted, const model::DescriptorTable& living,
                                 std::span<parasite::Visit* const> holders) {
  return with_context(Executor(tables, plan, wanted, living, holders).prepare(), "preparing the descriptor table");
}

Result<void> settle_locks(std::span<Workshop* const> tables, const diff::DescriptorPlan& plan) {
  for (const diff::SetLocks& locks : plan.last) {
    Workshop& workshop = *tables[static_cast<std::size_t>(locks.fd.table)];
    FileMaker maker(workshop);
    RELIVE_TRY(set_locks(maker, workshop.cleanup, locks.fd, locks.steps, Program::OnError::stop));
  }
  return {};
}

std::vector<RemoteFd> numbers_of(const model::DescriptorTable& table, int of_table) {
  std::vector<RemoteFd> numbers;
  for (const model::Descriptor& descriptor : table.descriptors)
    if (descriptor.fd.table == of_table) numbers.push_back(descriptor.fd);
  return numbers;
}

}  // namespace relive::apply
