#include "image/threads.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "image/xstate.h"

namespace relive::image {

namespace {

constexpr std::uint32_t kX86 = 1;
constexpr std::uint32_t kNative = 1;  // pb::Registers.mode
constexpr std::uint32_t kCompat = 2;
constexpr std::size_t kNameLimit = 15;
constexpr int kKill = SIGKILL;
constexpr int kStop = SIGSTOP;

template <class From>
std::string bytes_text(const From& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void registers_to(const user_regs_struct& from, pb::Registers& to) {
  to.set_r15(from.r15);
  to.set_r14(from.r14);
  to.set_r13(from.r13);
  to.set_r12(from.r12);
  to.set_bp(from.rbp);
  to.set_bx(from.rbx);
  to.set_r11(from.r11);
  to.set_r10(from.r10);
  to.set_r9(from.r9);
  to.set_r8(from.r8);
  to.set_ax(from.rax);
  to.set_cx(from.rcx);
  to.set_dx(from.rdx);
  to.set_si(from.rsi);
  to.set_di(from.rdi);
  to.set_orig_ax(from.orig_rax);
  to.set_ip(from.rip);
  to.set_cs(from.cs);
  to.set_flags(from.eflags);
  to.set_sp(from.rsp);
  to.set_ss(from.ss);
  to.set_fs_base(from.fs_base);
  to.set_gs_base(from.gs_base);
  to.set_ds(from.ds);
  to.set_es(from.es);
  to.set_fs(from.fs);
  to.set_gs(from.gs);
  to.set_mode(kNative);
}

user_regs_struct registers_from(const pb::Registers& from) {
  user_regs_struct to{};
  to.r15 = from.r15();
  to.r14 = from.r14();
  to.r13 = from.r13();
  to.r12 = from.r12();
  to.rbp = from.bp();
  to.rbx = from.bx();
  to.r11 = from.r11();
  to.r10 = from.r10();
  to.r9 = from.r9();
  to.r8 = from.r8();
  to.rax = from.ax();
  to.rcx = from.cx();
  to.rdx = from.dx();
  to.rsi = from.si();
  to.rdi = from.di();
  to.orig_rax = from.orig_ax();
  to.rip = from.ip();
  to.cs = from.cs();
  to.eflags = from.flags();
  to.rsp = from.sp();
  to.ss = from.ss();
  to.fs_base = from.fs_base();
  to.gs_base = from.gs_base();
  to.ds = from.ds();
  to.es = from.es();
  to.fs = from.fs();
  to.gs = from.gs();
  return to;
}

void queue_to(const std::vector<model::QueuedSignal>& from, pb::SignalQueue& to) {
  for (const auto& signal : from) to.add_signals()->set_info(bytes_text(signal.info));
}

std::vector<model::QueuedSignal> queue_from(const pb::SignalQueue& from, const std::string& file, Findings& findings) {
  std::vector<model::QueuedSignal> to;
  for (const pb::Signal& signal : from.signals()) {
    model::QueuedSignal queued;
    if (signal.info().size() != queued.info.size()) {
      findings.damaged(file, 0,
                       fmt::format("a queued signal has {} bytes, not {}", signal.info().size(), queued.info.size()));
      continue;
    }
    std::memcpy(queued.info.data(), signal.info().data(), queued.info.size());
    std::int32_t number = 0;
    std::memcpy(&number, queued.info.data(), sizeof number);
    if (number < 1 || number > static_cast<int>(model::kSignalCount)) {
      findings.damaged(file, 0, fmt::format("signal {} is queued", number));
      continue;
    }
    to.push_back(queued);
  }
  return to;
}

// Capabilities: inheritable, permitted, effective, bounding; ambient.
void capability_to(std::uint64_t mask, auto& words) {
  words.Add(static_cast<std::uint32_t>(mask));
  words.Add(static_cast<std::uint32_t>(mask >> 32));
}

std::uint64_t capability_from(const auto& words) {
  std::uint64_t mask = 0;
  for (int i = 0; i < std::min(words.size(), 2); ++i) mask |= std::uint64_t{words.Get(i)} << (32 * i);
  return mask;
}

void credentials_to(const model::Credentials& from, pb::Credentials& to) {
  to.set_uid(from.uids[0]);
  to.set_euid(from.uids[1]);
  to.set_suid(from.uids[2]);
  to.set_fsuid(from.uids[3]);
  to.set_gid(from.gids[0]);
  to.set_egid(from.gids[1]);
  to.set_sgid(from.gids[2]);
  to.set_fsgid(from.gids[3]);
  capability_to(from.capabilities[0], *to.mutable_inheritable());
  capability_to(from.capabilities[1], *to.mutable_permitted());
  capability_to(from.capabilities[2], *to.mutable_effective());
  capability_to(from.capabilities[3], *to.mutable_bounding());
  if (from.capabilities[4] != 0) capability_to(from.capabilities[4], *to.mutable_ambient());
  to.set_secure_bits(0);
  for (const std::uint32_t group : from.groups) to.add_groups(group);
  if (from.no_new_privs) to.set_no_new_privs(1);
}

model::Credentials credentials_from(const pb::ThreadPart& thread, const pb::TaskPart* task) {
  const pb::Credentials& from = thread.credentials();
  model::Credentials to;
  to.uids = {from.uid(), from.euid(), from.suid(), from.fsuid()};
  to.gids = {from.gid(), from.egid(), from.sgid(), from.fsgid()};
  to.groups.assign(from.groups().begin(), from.groups().end());
  to.capabilities = {capability_from(from.inheritable()), capability_from(from.permitted()),
                     capability_from(from.effective()), capability_from(from.bounding()),
                     capability_from(from.ambient())};
  to.no_new_privs = from.no_new_privs() != 0;
  to.seccomp_mode = thread.has_seccomp_mode() || task == nullptr ? thread.seccomp_mode() : task->old_seccomp_mode();
  return to;
}

constexpr std::int64_t kNsPerSecond = 1'000'000'000;
constexpr std::int64_t kUsPerSecond = 1'000'000;
constexpr std::uint64_t kLongestSeconds = 1ULL << 33;  // centuries: beyond it, seconds in nanoseconds overflow

void timer_to(const model::IntervalTimer& from, pb::IntervalTimer& to) {
  to.set_interval_s(static_cast<std::uint64_t>(from.interval_us / kUsPerSecond));
  to.set_interval_us(static_cast<std::uint64_t>(from.interval_us % kUsPerSecond));
  to.set_left_s(static_cast<std::uint64_t>(from.left_us / kUsPerSecond));
  to.set_left_us(static_cast<std::uint64_t>(from.left_us % kUsPerSecond));
}

// Seconds and a fraction, as one number of fractions.
std::int64_t time_from(std::uint64_t seconds, std::uint64_t fraction, std::int64_t second, const std::string& file,
                       Findings& findings) {
  if (seconds > kLongestSeconds || fraction >= static_cast<std::uint64_t>(second)) {
    findings.damaged(file, 0, fmt::format("a timer of {} s and {} fractions of one", seconds, fraction));
    return 0;
  }
  return static_cast<std::int64_t>(seconds) * second + static_cast<std::int64_t>(fraction);
}

void timers_to(const model::Process& process, pb::Timers& to) {
  timer_to(process.interval_timers[0], *to.mutable_real());
  timer_to(process.interval_timers[1], *to.mutable_virtual_time());
  timer_to(process.interval_timers[2], *to.mutable_profiling());
  for (const model::PosixTimer& from : process.timers) {
    pb::PosixTimer& timer = *to.add_posix();
    timer.set_id(static_cast<std::uint32_t>(from.id));
    timer.set_clock(static_cast<std::uint32_t>(from.clock));
    timer.set_signal(static_cast<std::uint32_t>(from.signal));
    timer.set_notify(static_cast<std::uint32_t>(from.notify));
    timer.set_value(from.value);
    timer.set_overrun(static_cast<std::uint32_t>(from.overrun));
    timer.set_interval_s(static_cast<std::uint64_t>(from.interval_ns / kNsPerSecond));
    timer.set_interval_ns(static_cast<std::uint64_t>(from.interval_ns % kNsPerSecond));
    timer.set_left_s(static_cast<std::uint64_t>(from.left_ns / kNsPerSecond));
    timer.set_left_ns(static_cast<std::uint64_t>(from.left_ns % kNsPerSecond));
    if (from.target.value != 0) timer.set_thread(from.target.value);
  }
}

void timers_from(const pb::Timers& from, model::Process& to, const std::string& file, Findings& findings) {
  const std::array three{&from.real(), &from.virtual_time(), &from.profiling()};
  for (std::size_t i = 0; i < three.size(); ++i) {
    const pb::IntervalTimer& timer = *three[i];
    to.interval_timers[i] = {time_from(timer.left_s(), timer.left_us(), kUsPerSecond, file, findings),
                             time_from(timer.interval_s(), timer.interval_us(), kUsPerSecond, file, findings)};
  }
  for (const pb::PosixTimer& timer : from.posix()) {
    model::PosixTimer made;
    made.id = static_cast<std::int32_t>(timer.id());
    made.clock = static_cast<std::int32_t>(timer.clock());
    made.notify = static_cast<std::int32_t>(timer.notify());
    made.signal = static_cast<std::int32_t>(timer.signal());
    made.value = timer.value();
    made.target = {timer.thread()};
    made.left_ns = time_from(timer.left_s(), timer.left_ns(), kNsPerSecond, file, findings);
    made.interval_ns = time_from(timer.interval_s(), timer.interval_ns(), kNsPerSecond, file, findings);
    made.overrun = static_cast<std::int32_t>(timer.overrun());
    to.timers.push_back(made);
  }
  std::ranges::sort(to.timers, {}, &model::PosixTimer::id);
  const auto twice = std::ranges::adjacent_find(to.timers, {}, &model::PosixTimer::id);
  if (twice != to.timers.end()) findings.damaged(file, 0, fmt::format("timer {} is there twice", twice->id));
}

}  // namespace

void begin_core(pb::Core& core) { core.set_machine(kX86); }

void to_entry(const model::Thread& thread, pb::Core& core, pb::ExtraThread& extra) {
  begin_core(core);
  pb::ThreadX86& x86 = *core.mutable_x86();
  x86.set_clear_child_tid(thread.clear_child_tid.value);
  registers_to(thread.registers, *x86.mutable_registers());
  to_entry(thread.xstate, XstateLayout::of_this_machine(), *x86.mutable_floating_point());

  pb::ThreadPart& part = *core.mutable_thread();
  part.set_robust_list(thread.robust_list.head.value);
  part.set_robust_list_length(static_cast<std::uint32_t>(thread.robust_list.length));
  part.set_nice(thread.scheduling.nice);
  part.set_policy(thread.scheduling.policy);
  if (thread.scheduling.policy == SCHED_FIFO || thread.scheduling.policy == SCHED_RR)
    part.set_priority(thread.scheduling.priority);
  part.set_signal_mask(thread.signal_mask);
  pb::AlternateStack& stack = *part.mutable_alternate_stack();
  stack.set_base(thread.alternate_stack.base.value);
  stack.set_size(thread.alternate_stack.size);
  stack.set_flags(static_cast<std::uint32_t>(thread.alternate_stack.flags));
  if (thread.parent_death_signal != 0)
    part.set_parent_death_signal(static_cast<std::uint32_t>(thread.parent_death_signal));
  queue_to(thread.pending, *part.mutable_pending());
  credentials_to(thread.credentials, *part.mutable_credentials());
  if (thread.credentials.seccomp_mode != 0) part.set_seccomp_mode(thread.credentials.seccomp_mode);
  part.set_name(thread.name);
  if (thread.rseq.area.value != 0) {
    pb::Rseq& rseq = *part.mutable_rseq();
    rseq.set_area(thread.rseq.area.value);
    rseq.set_size(thread.rseq.size);
    rseq.set_signature(thread.rseq.signature);
  }

  extra.set_tid(static_cast<std::uint32_t>(thread.tid.value));
  extra.set_xstate(bytes_text(thread.xstate));
  for (const std::uint64_t word : thread.affinity) extra.add_affinity(word);
  extra.set_io_priority(thread.io_priority);
  extra.set_timer_slack_ns(thread.timer_slack_ns);
  extra.set_scheduling_flags(thread.scheduling.flags);
  extra.set_runtime(thread.scheduling.runtime);
  extra.set_deadline(thread.scheduling.deadline);
  extra.set_period(thread.scheduling.period);
  extra.set_rseq_flags(thread.rseq.flags);
  extra.set_seccomp_filters(thread.credentials.seccomp_filters);
}

model::Thread thread_from(std::uint32_t tid, const pb::Core& core, const pb::TaskPart* task,
                          const pb::ExtraThread* extra, const std::string& file, Findings& findings) {
  model::Thread thread;
  thread.tid = {static_cast<pid_t>(tid)};
  if (core.machine() != kX86) {
    findings.unsupported(file, 0,
                         fmt::format("is of another architecture (number {}); relive knows x86-64", core.machine()));
    return thread;
  }
  if (!core.has_x86() || !core.has_thread()) {
    findings.damaged(file, 0, "has no registers, or no thread");
    return thread;
  }
  const pb::ThreadX86& x86 = core.x86();
  if (x86.registers().mode() == kCompat) findings.unsupported(file, 0, "is of a 32-bit program");
  thread.clear_child_tid = {x86.clear_child_tid()};
  thread.registers = registers_from(x86.registers());
  const XstateLayout& layout = XstateLayout::of_this_machine();
  std::vector<std::string> missing;
  thread.xstate = from_entry(x86.floating_point(), layout, missing);
  for (const std::string& what : missing) findings.unsupported(file, 0, "has " + what + ", which this processor lacks");
  constexpr std::uint64_t kShadowStackOn = 1;  // of MSR_IA32_U_CET
  if ((x86.floating_point().extended().shadow_stack().control() & kShadowStackOn) != 0)
    findings.unsupported(file, 0, "has a shadow stack");
  for (const pb::SegmentDescriptor& segment : x86.segments())
    if (segment.usable() || segment.base() != 0 || segment.limit() != 0) {
      findings.unsupported(file, 0, "has segments of its own (set_thread_area(2))");
      break;
    }

  const pb::ThreadPart& part = core.thread();
  thread.robust_list = {{part.robust_list()}, part.robust_list_length()};
  thread.scheduling.nice = part.nice();
  thread.scheduling.policy = part.policy();
  thread.scheduling.priority = part.priority();
  thread.signal_mask = part.has_signal_mask() || task == nullptr ? part.signal_mask() : task->signal_mask();
  if (part.has_alternate_stack()) {
    const pb::AlternateStack& stack = part.alternate_stack();
    thread.alternate_stack = {{stack.base()}, static_cast<std::int32_t>(stack.flags()), stack.size()};
  }
  thread.parent_death_signal = static_cast<std::int32_t>(part.parent_death_signal());
  thread.pending = queue_from(part.pending(), file, findings);
  if (!part.has_credentials()) findings.damaged(file, 0, "has no credentials");
  thread.credentials = credentials_from(part, task);
  thread.name = part.has_name() || task == nullptr ? part.name() : task->name();
  if (thread.name.size() > kNameLimit || thread.name.find('\0') != std::string::npos) {
    findings.damaged(file, 0, fmt::format("a name of {} bytes", thread.name.size()));
    thread.name.clear();
  }
  if (part.has_rseq()) {
    thread.rseq = {{part.rseq().area()}, part.rseq().size(), part.rseq().signature(), 0};
    if (part.rseq().critical_section() != 0) findings.unsupported(file, 0, "stands inside an rseq critical section");
  }
  if (extra == nullptr) {
    thread.timer_slack_ns = 50'000;  // what a task is born with (prctl(2))
    return thread;
  }
  // The whole area stands for the entry's words only while it says the same as they do.
  pb::FloatingPoint said;
  const std::span whole(reinterpret_cast<const std::byte*>(extra->xstate().data()), extra->xstate().size());
  to_entry(whole, layout, said);
  constexpr std::size_t kWithHeader = 576;
  if (whole.size() >= kWithHeader && whole.size() <= layout.total &&
      said.SerializePartialAsString() == x86.floating_point().SerializePartialAsString())
    thread.xstate.assign(whole.begin(), whole.end());
  thread.affinity.assign(extra->affinity().begin(), extra->affinity().end());
  thread.io_priority = extra->io_priority();
  thread.timer_slack_ns = extra->timer_slack_ns();
  thread.scheduling.flags = extra->scheduling_flags();
  thread.scheduling.runtime = extra->runtime();
  thread.scheduling.deadline = extra->deadline();
  thread.scheduling.period = extra->period();
  thread.rseq.flags = extra->rseq_flags();
  thread.credentials.seccomp_filters = extra->seccomp_filters();
  return thread;
}

void to_entry(const ImagedTask& from, pb::TaskPart& part, pb::ExtraTask& extra) {
  const model::Process& process = from.task.process;
  extra.set_version(1);
  extra.set_start_time(from.task.start_time);
  extra.set_exit_signal(from.exit_signal);
  part.set_state(static_cast<std::uint32_t>(from.state));
  part.set_exit_code(from.exit_code);
  part.set_personality(static_cast<std::uint32_t>(process.personality));
  part.set_flags(0);
  if (from.state == TaskState::zombie || from.state == TaskState::dead) {
    part.set_signal_mask(0);
    part.set_name("");
    return;
  }
  const model::Thread& leader = from.task.threads.front();
  part.set_signal_mask(leader.signal_mask);
  part.set_name(leader.name);
  timers_to(process, *part.mutable_timers());
  for (const model::Limit& limit : process.limits) {
    pb::Limit& made = *part.mutable_limits()->add_limits();
    made.set_soft(limit.soft);
    made.set_hard(limit.hard);
  }
  queue_to(process.pending, *part.mutable_pending());
  part.set_oom_score_adj(process.oom_score_adj);
  for (std::size_t i = 0; i < process.actions.size(); ++i) {
    const int signal = static_cast<int>(i) + 1;
    if (signal == kKill || signal == kStop) continue;
    pb::SignalAction& action = *part.add_actions();
    action.set_handler(process.actions[i].handler);
    action.set_flags(process.actions[i].flags);
    action.set_restorer(process.actions[i].restorer);
    action.set_mask(process.actions[i].mask);
    action.set_compat(false);
  }
  part.set_child_subreaper(process.child_subreaper);

  for (const std::uint64_t inode : process.namespaces) extra.add_namespaces(inode);
  extra.set_parent(static_cast<std::uint32_t>(process.parent));
  extra.set_controlling_terminal(static_cast<std::uint32_t>(process.controlling_terminal));
  extra.set_thp_disable(process.thp_disable);
  extra.set_personality(process.personality);
}

void process_from(const pb::TaskPart& part, const pb::ExtraTask* extra, const std::string& file, ImagedTask& task,
                  Findings& findings) {
  model::Process& process = task.task.process;
  process.personality = part.personality();
  process.oom_score_adj = part.oom_score_adj();
  process.child_subreaper = part.child_subreaper();
  task.state = static_cast<TaskState>(part.state());
  task.exit_code = part.exit_code();
  if (extra != nullptr && extra->has_exit_signal()) task.exit_signal = extra->exit_signal();
  if (task.state == TaskState::dead || task.state == TaskState::zombie) return;
  if (part.has_timers()) timers_from(part.timers(), process, file, findings);
  process.pending = queue_from(part.pending(), file, findings);
  if (!part.has_limits() || part.limits().limits_size() != static_cast<int>(process.limits.size()))
    findings.damaged(file, 0, fmt::format("has {} limits, not {}", part.limits().limits_size(), process.limits.size()));
  for (std::size_t i = 0; i < process.limits.size() && static_cast<int>(i) < part.limits().limits_size(); ++i) {
    const pb::Limit& limit = part.limits().limits(static_cast<int>(i));
    process.limits[i] = {limit.soft(), limit.hard()};
    if (limit.soft() > limit.hard()) findings.damaged(file, 0, fmt::format("limit {}: soft above hard", i));
  }
  if (part.actions_size() != static_cast<int>(model::kSignalCount) - 2)
    findings.damaged(file, 0,
                     fmt::format("has {} signal actions, not {}", part.actions_size(), model::kSignalCount - 2));
  int next = 0;
  for (std::size_t i = 0; i < process.actions.size(); ++i) {
    const int signal = static_cast<int>(i) + 1;
    if (signal == kKill || signal == kStop || next >= part.actions_size()) continue;
    const pb::SignalAction& action = part.actions(next++);
    process.actions[i] = {action.handler(), action.flags(), action.restorer(), action.mask()};
  }
  if (extra == nullptr) return;
  task.task.start_time = extra->start_time();
  for (int i = 0; i < std::min<int>(extra->namespaces_size(), static_cast<int>(process.namespaces.size())); ++i)
    process.namespaces[static_cast<std::size_t>(i)] = extra->namespaces(i);
  process.controlling_terminal = static_cast<std::int32_t>(extra->controlling_terminal());
  if (process.personality == static_cast<std::uint32_t>(extra->personality()))
    process.personality = extra->personality();
}

}  // namespace relive::image
