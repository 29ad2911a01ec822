#include <fmt/format.h>

#include <algorithm>

#include "cli/doctor_json.h"
#include "cli/probes.h"
#include "cli/support.h"
#include "tracking/tracker.h"

namespace relive::cli {

namespace {

std::vector<Finding> tracker_findings(const std::vector<tracking::TrackerProof>& proofs) {
  std::vector<Finding> findings;
  for (const auto& proof : proofs)
    findings.push_back({fmt::format("tracker {}", tracking::tracker_name(proof.kind)), proof.works,
                        proof.kind == tracking::TrackerKind::compare, proof.reason,
                        proof.kind == tracking::TrackerKind::compare ? "everything: no changed page can be found"
                                                                     : "nothing: another tracker takes its place"});
  return findings;
}

void print(Output& output, std::string_view title, const std::vector<Finding>& findings) {
  Table table({"", "", "", ""});
  for (const auto& finding : findings) {
    const Color bad = finding.required ? Color::red : Color::yellow;
    table.row({finding.ok ? output.paint(Color::green, "ok") : output.paint(bad, "no"), finding.name, finding.detail,
               finding.ok ? "" : "refused: " + finding.refused});
  }
  if (!title.empty()) output.line(output.paint(Color::bold, title));
  for (const auto& line : table.lines(2)) output.line(line);
}

Result<ExitCode> run(const Words&, Output& output) {
  const auto proofs = tracking::prove_trackers();
  auto findings = tracker_findings(proofs);
  const std::size_t trackers = findings.size();
  for (auto& finding : probe_machine()) findings.push_back(std::move(finding));
  const bool ready =
      std::ranges::none_of(findings, [](const Finding& finding) { return finding.required && !finding.ok; });
  const std::string_view best = tracking::tracker_name(tracking::best_tracker());
  const ExitCode code = ready ? ExitCode::done : ExitCode::unsupported;
  if (output.json()) {
    output.line(doctor_json(proofs, findings, best, ready));
    return code;
  }
  print(output, fmt::format("trackers (this machine gets {})", best),
        {findings.begin(), findings.begin() + static_cast<std::ptrdiff_t>(trackers)});
  output.line("");
  print(output, "machine and user", {findings.begin() + static_cast<std::ptrdiff_t>(trackers), findings.end()});
  output.line("");
  output.line(ready ? output.paint(Color::green, "relive works here.")
                    : output.paint(Color::red, "relive does not work here."));
  return code;
}

}  // namespace

Command doctor_command() {
  return {
      .name = "doctor",
      .group = Group::machine,
      .summary = "what this machine and this user allow, each proven by doing it",
      .description =
          "Tries everything that relive needs on children of its own. What is missing is named with what relive then "
          "refuses.\n"
          "Exit code 4 if no rollback can work here.",
      .positionals = {},
      .options = {},
      .examples = {{"will it work here?", "relive doctor"}},
      .run = run,
  };
}

}  // namespace relive::cli
