#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "capture/fdinfo.h"
#include "capture/opened.h"
#include "capture/survey.h"

namespace relive::capture {

using model::RemoteFd;

Result<model::FileObject> read_epoll_set(const Opened& opened) {
  return model::FileObject(RELIVE_TRY(parse_epoll_set(RELIVE_TRY(opened.fdinfo()))));
}

Result<void> complete_epoll_sets(const Survey& survey) {
  const pid_t tid = survey.visit.driver().value;
  for (std::size_t index = 0; index < survey.table.open_files.size(); ++index) {
    auto* const set = std::get_if<model::EpollSet>(&survey.table.open_files[index].object);
    if (set == nullptr) continue;
    std::uint32_t offset = 0;  // among entries with the same number
    for (std::size_t at = 0; at < set->entries.size(); ++at) {
      model::EpollEntry& entry = set->entries[at];
      offset = at > 0 && set->entries[at - 1].fd == entry.fd ? offset + 1 : 0;
      const auto found = std::ranges::lower_bound(survey.table.descriptors, entry.fd, {}, &model::Descriptor::fd);
      if (found == survey.table.descriptors.end() || found->fd != entry.fd) {
        entry.stale = true;
        continue;
      }
      kcmp_epoll_slot slot{.efd = static_cast<std::uint32_t>(survey.first[index].value),
                           .tfd = static_cast<std::uint32_t>(entry.fd.value),
                           .toff = offset};
      const long answer = ::syscall(SYS_kcmp, tid, tid, KCMP_EPOLL_TFD, entry.fd.value, &slot);
      if (answer < 0) return fail_errno("kcmp", "KCMP_EPOLL_TFD");
      entry.stale = answer != 0;
      if (!entry.stale) survey.table.open_files[found->open_file].watched = true;
    }
  }
  return {};
}

Result<model::EpollSet> parse_epoll_set(std::string_view fdinfo) {
  model::EpollSet set;
  while (!fdinfo.empty()) {
    const std::string_view line = take_line(fdinfo);
    if (!line.starts_with("tfd:")) continue;
    const auto fd = word_after(line, "tfd:");
    const auto events = word_after(line, "events:");
    const auto data = word_after(line, "data:");
    if (!fd || !events || !data) return fail(ErrorKind::system, fmt::format("fdinfo of an epoll set: '{}'", line));
    set.entries.push_back({.fd = RemoteFd{static_cast<int>(number_in(*fd, 10))},
                           .events = static_cast<std::uint32_t>(number_in(*events, 16)),
                           .data = number_in(*data, 16),
                           .stale = false});
  }
  std::ranges::stable_sort(set.entries, {}, &model::EpollEntry::fd);
  return set;
}

}  // namespace relive::capture
