#include "lib/reports.h"

#include <fmt/format.h>

#include <cerrno>
#include <deque>
#include <memory>

#include "client/report_json.h"
#include "lib/kept.h"

namespace relive::lib {

namespace {

struct ErrorOwner : relive_error {
  Kept kept;
};
struct SnapshotOwner : relive_snapshot_report {
  relive_snapshot_info its_info{};
  Kept kept;
};
struct RollbackOwner : relive_rollback_report {
  std::deque<relive_stage> its_stages;
  std::deque<relive_refusal> its_refusals;
  Kept kept;
};
struct DiffOwner : relive_diff_report {
  std::deque<relive_difference> its_differences;
  std::deque<relive_refusal> its_refusals;
  Kept kept;
};
struct ListOwner : relive_list_report {
  std::deque<relive_snapshot_info> its_snapshots;
  Kept kept;
};

relive_snapshot_info info_of(Kept& kept, const rollback::SnapshotInfo& info) {
  relive_snapshot_info out{};
  out.name = kept.text(info.name);
  out.pid = info.pid.value;
  out.created_ns = info.created_ns;
  out.tasks = info.tasks;
  out.threads = info.threads;
  out.mappings = info.mappings;
  out.pages = info.pages;
  out.descriptors = info.descriptors;
  out.tracker = kept.text(info.tracker);
  out.command = kept.text(info.command);
  out.directories = kept.texts(info.directories, out.directory_count);
  out.files = info.files;
  out.file_bytes = info.file_bytes;
  return out;
}

relive_refusal refusal_of(Kept& kept, const diff::Refusal& refusal) {
  return {kept.text(refusal.object), kept.text(refusal.reason), kept.text(refusal.hint)};
}

relive_fate fate_of(apply::Fate fate) {
  switch (fate) {
    case apply::Fate::done:
      return RELIVE_FATE_DONE;
    case apply::Fate::untouched:
      return RELIVE_FATE_UNTOUCHED;
    case apply::Fate::stopped:
      return RELIVE_FATE_STOPPED;
    case apply::Fate::killed:
      return RELIVE_FATE_KILLED;
  }
  return RELIVE_FATE_STOPPED;
}

char sign_of(diff::Sign sign) {
  switch (sign) {
    case diff::Sign::added:
      return '+';
    case diff::Sign::removed:
      return '-';
    case diff::Sign::changed:
      return '~';
  }
  return '?';
}

Problem refused(const rollback::RollbackReport& report, std::string_view snapshot, int pid) {
  Error error{ErrorKind::refused, fmt::format("{} cannot go back to '{}': ", pid, snapshot), 0, {}, {}};
  std::string_view between;
  for (const diff::Refusal& refusal : report.refusals) {
    error.what += fmt::format("{}{}: {}", between, refusal.object, refusal.reason);
    if (error.hint.empty()) error.hint = refusal.hint;
    between = "; ";
  }
  return {RELIVE_REFUSED, std::move(error)};
}

}  // namespace

// The codes that are kinds have their numbers, which the protocol keeps as they are.
constexpr int number_of(ErrorKind kind) { return static_cast<int>(kind) + RELIVE_USAGE; }
static_assert(number_of(ErrorKind::usage) == RELIVE_USAGE && number_of(ErrorKind::not_found) == RELIVE_NOT_FOUND &&
              number_of(ErrorKind::refused) == RELIVE_REFUSED &&
              number_of(ErrorKind::permission) == RELIVE_PERMISSION && number_of(ErrorKind::busy) == RELIVE_BUSY &&
              number_of(ErrorKind::unsupported) == RELIVE_UNSUPPORTED &&
              number_of(ErrorKind::task_died) == RELIVE_TASK_DIED && number_of(ErrorKind::system) == RELIVE_SYSTEM &&
              number_of(ErrorKind::injected) == RELIVE_INJECTED);

relive_code code_of(const Error& error) {
  const bool late = error.kind == ErrorKind::busy && error.errno_value == ETIMEDOUT;  // client/ask.h
  return late ? RELIVE_TIMEOUT : static_cast<relive_code>(number_of(error.kind));
}

relive_error* make(const Problem& problem) {
  auto out = std::make_unique<ErrorOwner>();
  out->code = problem.code;
  out->errno_value = problem.error.errno_value;
  out->message = out->kept.text(problem.error.text());
  out->what = out->kept.text(problem.error.what);
  out->hint = out->kept.text(problem.error.hint);
  out->json = out->kept.text(client::error_json(problem.error));
  return out.release();
}

relive_snapshot_report* make(const rollback::SnapshotReport& report, std::uint64_t total_us,
                             const std::vector<std::string>& notes) {
  auto out = std::make_unique<SnapshotOwner>();
  out->its_info = info_of(out->kept, report.info);
  out->info = &out->its_info;
  out->frozen_us = report.frozen_us;
  out->total_us = total_us;
  out->pages_copied = report.pages_copied;
  out->notes = out->kept.texts(notes, out->note_count);
  out->json = out->kept.text(client::snapshot_json(report, {}, total_us));
  return out.release();
}

relive_rollback_report* make(const rollback::RollbackReport& report, std::string_view snapshot, int pid, bool dry_run,
                             std::uint64_t total_us) {
  auto out = std::make_unique<RollbackOwner>();
  Kept& kept = out->kept;
  out->fate = fate_of(report.fate);
  out->frozen_us = report.frozen_us;
  out->total_us = total_us;
  out->tasks = report.tasks;
  out->threads = report.threads;
  out->pages = report.pages;
  out->mappings = report.mappings;
  out->descriptors = report.descriptors;
  out->files = report.files;
  out->file_bytes = report.file_bytes;
  out->tracker = kept.text(report.tracker);
  out->stages = kept.list(out->its_stages, report.stages, out->stage_count,
                          [&](const rollback::Stage& stage) { return relive_stage{kept.text(stage.name), stage.us}; });
  out->notes = kept.texts(report.notes, out->note_count);
  out->refusals = kept.list(out->its_refusals, report.refusals, out->refusal_count,
                            [&](const diff::Refusal& refusal) { return refusal_of(kept, refusal); });
  out->plan = kept.texts(report.plan, out->plan_count);
  out->json = kept.text(client::rollback_json(report, snapshot, pid, dry_run, total_us));
  return out.release();
}

relive_diff_report* make(const rollback::DiffReport& report, std::string_view snapshot, int pid) {
  auto out = std::make_unique<DiffOwner>();
  Kept& kept = out->kept;
  out->differences = kept.list(
      out->its_differences, report.differences, out->difference_count, [&](const diff::Difference& difference) {
        return relive_difference{kept.text(std::string(diff::family_name(difference.family))), sign_of(difference.sign),
                                 kept.text(difference.object), kept.text(difference.text), difference.pages};
      });
  out->refusals = kept.list(out->its_refusals, report.refusals, out->refusal_count,
                            [&](const diff::Refusal& refusal) { return refusal_of(kept, refusal); });
  out->frozen_us = report.frozen_us;
  out->json = kept.text(client::diff_json(report, snapshot, pid));
  return out.release();
}

relive_list_report* make(const rollback::ListReport& report) {
  auto out = std::make_unique<ListOwner>();
  Kept& kept = out->kept;
  out->snapshots = kept.list(out->its_snapshots, report.snapshots, out->snapshot_count,
                             [&](const rollback::SnapshotInfo& info) { return info_of(kept, info); });
  out->json = kept.text(client::list_json(report.snapshots));
  return out.release();
}

std::optional<Problem> problem_of(const rollback::RollbackReport& report, std::string_view snapshot, int pid,
                                  bool dry_run) {
  if (report.fate == apply::Fate::stopped || report.fate == apply::Fate::killed) {
    const bool killed = report.fate == apply::Fate::killed;
    Error error = report.error.value_or(Error{});
    if (error.what.empty()) error.what = "the kernel broke the rollback off";
    error.context.push_back(
        fmt::format("{} is {}, half way back to '{}'", pid, killed ? "killed" : "left stopped", snapshot));
    return Problem{killed ? RELIVE_KILLED : RELIVE_STOPPED, std::move(error)};
  }
  if (report.error) return Problem{code_of(*report.error), *report.error};
  if (!report.refusals.empty()) return refused(report, snapshot, pid);
  if (report.fate == apply::Fate::untouched && !dry_run)
    return Problem{RELIVE_SYSTEM,
                   Error{ErrorKind::system, fmt::format("{} was not touched, and nobody says why", pid), 0, {}, {}}};
  return std::nullopt;
}

}  // namespace relive::lib

// The owners' destructors free what hangs on them; the caller has only their first member.
void relive_error_free(relive_error* error) { delete static_cast<relive::lib::ErrorOwner*>(error); }
void relive_snapshot_report_free(relive_snapshot_report* report) {
  delete static_cast<relive::lib::SnapshotOwner*>(report);
}
void relive_rollback_report_free(relive_rollback_report* report) {
  delete static_cast<relive::lib::RollbackOwner*>(report);
}
void relive_diff_report_free(relive_diff_report* report) { delete static_cast<relive::lib::DiffOwner*>(report); }
void relive_list_report_free(relive_list_report* report) { delete static_cast<relive::lib::ListOwner*>(report); }

const char* relive_error_json(const relive_error* error) { return error->json; }
const char* relive_snapshot_report_json(const relive_snapshot_report* report) { return report->json; }
const char* relive_rollback_report_json(const relive_rollback_report* report) { return report->json; }
const char* relive_diff_report_json(const relive_diff_report* report) { return report->json; }
const char* relive_list_report_json(const relive_list_report* report) { return report->json; }
