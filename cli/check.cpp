#include <fmt/format.h>

#include "cli/image_json.h"
#include "cli/support.h"
#include "image/machine.h"
#include "image/read.h"

namespace relive::cli {

namespace {

// 0: whole, and can be applied here. 4: whole. 1: damaged.
ExitCode code_of(const image::Findings& findings) {
  if (findings.any_damage()) return ExitCode::untouched;
  return findings.count() == 0 ? ExitCode::done : ExitCode::unsupported;
}

std::string verdict(ExitCode code) {
  if (code == ExitCode::done) return "is whole, and can be applied here";
  if (code == ExitCode::unsupported) return "is whole, but cannot be applied here";
  return "is damaged";
}

Result<ExitCode> run(const Words& words, Output& output) {
  const std::string path = words.get("IMAGE");
  const auto source = RELIVE_TRY(image::open_directory(path));
  image::Findings findings;
  const image::Image image = image::read_image(*source, findings);
  image::check_machine(image, findings);
  image::check_named_files(image, findings);
  const ExitCode code = code_of(findings);
  if (output.json()) {
    output.line(check_json(path, image, findings, static_cast<int>(code)));
    return code;
  }
  for (const image::Finding& finding : findings.all()) {
    const bool damaged = finding.severity == image::Severity::damaged;
    output.line(fmt::format("{} {}",
                            output.paint(damaged ? Color::red : Color::yellow, damaged ? "damaged    " : "unsupported"),
                            printable(text(finding))));
  }
  if (findings.count() > findings.all().size())
    output.line(fmt::format("... and {} more", findings.count() - findings.all().size()));
  std::uint64_t pages = 0;
  for (const image::ImagedTask& task : image.tasks) pages += image::count_pages(task.pages);
  output.line(fmt::format("{}: {}, {}; the image {}", printable(path), count(image.tasks.size(), "task", "tasks"),
                          count(pages, "page", "pages"), verdict(code)));
  return code;
}

}  // namespace

Command check_command() {
  return {
      .name = "check",
      .group = Group::look,
      .summary = "is an image on disk whole, and can it be applied here?",
      .description =
          "Reads a CRIU image directory and names everything that is wrong with it, by file and entry: what is "
          "missing,\n"
          "broken or contradicts itself (exit code 1), and what this machine or this release cannot apply (exit code "
          "4).",
      .positionals = {{"IMAGE", "the directory"}},
      .options = {},
      .examples = {{"is it whole?", "relive check /var/tmp/before"}},
      .run = run,
  };
}

}  // namespace relive::cli
