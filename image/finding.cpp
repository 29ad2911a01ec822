#include "image/finding.h"

#include <fmt/format.h>

#include <utility>

namespace relive::image {

std::string text(const Finding& finding) {
  if (finding.file.empty()) return finding.text;
  if (!finding.entry) return fmt::format("{}: {}", finding.file, finding.text);
  return fmt::format("{}, entry {}: {}", finding.file, *finding.entry, finding.text);
}

void Findings::add(Finding finding) {
  if (finding.severity == Severity::damaged) damage_ = true;
  ++count_;
  if (all_.size() < kLimit) all_.push_back(std::move(finding));
}

void Findings::damaged(std::string file, std::optional<std::uint64_t> entry, std::string what) {
  add({Severity::damaged, std::move(file), entry, std::move(what)});
}

void Findings::unsupported(std::string file, std::optional<std::uint64_t> entry, std::string what) {
  add({Severity::unsupported, std::move(file), entry, std::move(what)});
}

}  // namespace relive::image
