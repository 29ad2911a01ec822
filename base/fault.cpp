#include "base/fault.h"

#include <csignal>

#include "base/number.h"

namespace relive {

namespace {
FaultPlan armed_plan;
std::uint64_t points_passed = 0;
std::string last_name;
}  // namespace

Result<FaultPlan> FaultPlan::parse(std::string_view text) {
  FaultPlan plan;
  if (text.empty()) return plan;
  const auto colon = text.find(':');
  const std::string_view verb = text.substr(0, colon);
  if (verb == "fail") plan.action = Action::fail;
  if (verb == "kill") plan.action = Action::kill;
  const std::string_view number = colon == std::string_view::npos ? std::string_view{} : text.substr(colon + 1);
  const auto at = parse_number<decltype(plan.at)>(number);
  if (plan.action == Action::none || !at)
    return fail(ErrorKind::usage, "fault plan '" + std::string(text) + "' is neither fail:N nor kill:N");
  plan.at = *at;
  return plan;
}

void arm_faults(const FaultPlan& plan) {
  armed_plan = plan;
  points_passed = 0;
  last_name.clear();
}

std::uint64_t faults_passed() { return points_passed; }
std::string last_fault_point() { return last_name; }

Result<void> fault_point(std::string_view name) {
  last_name = name;
  const bool here = points_passed++ == armed_plan.at;
  if (!here || armed_plan.action == FaultPlan::Action::none) return {};
  if (armed_plan.action == FaultPlan::Action::kill) ::raise(SIGKILL);
  return fail(ErrorKind::injected, "injected fault at '" + last_name + "'");
}

}  // namespace relive
