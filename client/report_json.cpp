#include "client/report_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace relive::client {

namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& value) { return value.dump(2, ' ', false, Json::error_handler_t::replace); }

Json of(const Error& error) {
  return {{"kind", kind_name(error.kind)}, {"message", error.text()}, {"what", error.what},
          {"errno", error.errno_value},    {"hint", error.hint},      {"context", error.context}};
}

Json of(const std::vector<diff::Refusal>& refusals) {
  Json list = Json::array();
  for (const auto& refusal : refusals)
    list.push_back({{"object", refusal.object}, {"reason", refusal.reason}, {"hint", refusal.hint}});
  return list;
}

Json of(const rollback::SnapshotInfo& info) {
  return {{"snapshot", info.name},
          {"pid", info.pid.value},
          {"command", info.command},
          {"created_ns", info.created_ns},
          {"tasks", info.tasks},
          {"threads", info.threads},
          {"mappings", info.mappings},
          {"pages", info.pages},
          {"descriptors", info.descriptors},
          {"tracker", info.tracker},
          {"directories", info.directories},
          {"files", info.files},
          {"file_bytes", info.file_bytes}};
}

std::string_view sign_name(diff::Sign sign) {
  switch (sign) {
    case diff::Sign::added:
      return "added";
    case diff::Sign::removed:
      return "removed";
    case diff::Sign::changed:
      return "changed";
  }
  return "?";
}

}  // namespace

std::string_view kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage:
      return "usage";
    case ErrorKind::not_found:
      return "not_found";
    case ErrorKind::refused:
      return "refused";
    case ErrorKind::permission:
      return "permission";
    case ErrorKind::busy:
      return "busy";
    case ErrorKind::unsupported:
      return "unsupported";
    case ErrorKind::task_died:
      return "task_died";
    case ErrorKind::system:
      return "system";
    case ErrorKind::injected:
      return "injected";
  }
  return "?";
}

std::string error_json(const Error& error, std::optional<int> exit_code) {
  Json object = {{"error", of(error)}};
  if (exit_code) object["exit_code"] = *exit_code;
  return dump(object);
}

std::string snapshot_json(const rollback::SnapshotReport& report, const std::optional<rollback::ImageReport>& image,
                          std::uint64_t total_us) {
  Json object = of(report.info);
  object["frozen_us"] = report.frozen_us;
  object["total_us"] = total_us;
  object["pages_copied"] = report.pages_copied;
  object["faults_passed"] = report.faults_passed;
  if (image)
    object["image"] = {{"directory", image->directory},
                       {"pages", image->pages},
                       {"bytes", image->bytes},
                       {"us", image->us},
                       {"faults_passed", image->faults_passed}};
  return dump(object);
}

std::string rollback_json(const rollback::RollbackReport& report, std::string_view snapshot, int pid, bool dry_run,
                          std::uint64_t total_us) {
  Json stages = Json::array();
  for (const auto& stage : report.stages) stages.push_back({{"name", stage.name}, {"us", stage.us}});
  Json object = {{"fate", apply::fate_name(report.fate)},
                 {"snapshot", snapshot},
                 {"pid", pid},
                 {"dry_run", dry_run},
                 {"frozen_us", report.frozen_us},
                 {"total_us", total_us},
                 {"tasks", report.tasks},
                 {"at_rest", report.at_rest},
                 {"threads", report.threads},
                 {"pages", report.pages},
                 {"mappings", report.mappings},
                 {"descriptors", report.descriptors},
                 {"files", report.files},
                 {"file_bytes", report.file_bytes},
                 {"tracker", report.tracker},
                 {"stages", stages},
                 {"notes", report.notes},
                 {"refusals", of(report.refusals)},
                 {"faults_passed", report.faults_passed}};
  if (dry_run) {
    object["plan"] = report.plan;
    object["dot"] = report.dot;
  }
  if (report.error) object["error"] = of(*report.error);
  return dump(object);
}

std::string diff_json(const rollback::DiffReport& report, std::string_view snapshot, int pid) {
  Json differences = Json::array();
  for (const auto& difference : report.differences) {
    Json one = {{"family", diff::family_name(difference.family)},
                {"sign", sign_name(difference.sign)},
                {"object", difference.object},
                {"text", difference.text}};
    if (difference.family == diff::Family::page) one["pages"] = difference.pages;
    differences.push_back(std::move(one));
  }
  return dump({{"snapshot", snapshot},
               {"pid", pid},
               {"frozen_us", report.frozen_us},
               {"differences", differences},
               {"refusals", of(report.refusals)}});
}

std::string list_json(const std::vector<rollback::SnapshotInfo>& snapshots) {
  Json list = Json::array();
  for (const auto& info : snapshots) list.push_back(of(info));
  return dump({{"snapshots", list}});
}

namespace {
Json of(const rollback::ShownTask& task) {
  Json process = Json::object();
  for (const auto& value : task.process) process[value.name] = value.value;
  Json threads = Json::array();
  for (const auto& thread : task.threads)
    threads.push_back({{"tid", thread.tid.value},
                       {"name", thread.name},
                       {"instruction", fmt::format("{:#x}", thread.instruction)},
                       {"stack", fmt::format("{:#x}", thread.stack)},
                       {"blocked_signals", fmt::format("{:#x}", thread.blocked_signals)},
                       {"pending_signals", thread.pending_signals}});
  Json mappings = Json::array();
  for (const auto& mapping : task.mappings)
    mappings.push_back({{"begin", fmt::format("{:#x}", mapping.range.begin)},
                        {"end", fmt::format("{:#x}", mapping.range.end)},
                        {"access", mapping.access},
                        {"offset", mapping.offset},
                        {"name", mapping.name}});
  Json descriptors = Json::array();
  for (const auto& descriptor : task.descriptors)
    descriptors.push_back({{"fd", descriptor.fd},
                           {"kind", descriptor.kind},
                           {"text", descriptor.text},
                           {"close_on_exec", descriptor.close_on_exec}});
  return {{"pid", task.pid.value},
          {"parent", task.parent.value},
          {"name", task.name},
          {"process", process},
          {"thread_list", threads},
          {"mapping_list", mappings},
          {"descriptor_list", descriptors}};
}
}  // namespace

std::string show_json(const rollback::ShowReport& report) {
  Json object = of(report.info);
  Json tasks = Json::array();
  for (const auto& task : report.tasks) tasks.push_back(of(task));
  object["task_list"] = tasks;
  return dump(object);
}

std::string drop_json(const rollback::DropReport& report, int pid, bool dry_run) {
  return dump({{"pid", pid}, {"dry_run", dry_run}, {"dropped", report.dropped}});
}

}  // namespace relive::client
