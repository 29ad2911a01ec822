#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "capture/fdinfo.h"
#include "capture/opened.h"
#include "capture/survey.h"

namespace relive::capture {

using model::RemoteFd;

Result<model::FileObject> read_epoll_set(const Opened& opened) {
  return model::FileObject(RELIVE_TRY(parse_epoll_set(RELIVE_TRY(opened.fdinfo()))));
}

namespace {

const model::Descriptor* find(const model::DescriptorTable& table, RemoteFd fd) {
  const auto found = std::ranges::lower_bound(table.descriptors, fd, {}, &model::Descriptor::fd);
  return found != table.descriptors.end() && found->fd == fd ? &*found : nullptr;
}

// In each table that has the file: its lowest number.
std::vector<RemoteFd> numbers_by_table(const model::DescriptorTable& table, std::size_t file) {
  std::vector<RemoteFd> numbers;
  for (const model::Descriptor& descriptor : table.descriptors) {
    if (descriptor.open_file == file && (numbers.empty() || numbers.back().table != descriptor.fd.table))
      numbers.push_back(descriptor.fd);
  }
  return numbers;
}

// The descriptor through which the set watches the `offset`th of the files that it knows by this number; null where the
// number leads elsewhere in every table that has the set.
Result<const model::Descriptor*> watched(const Survey& survey, const std::vector<RemoteFd>& sets, int number,
                                         std::uint32_t offset) {
  for (const RemoteFd set : sets) {
    const model::Descriptor* const there = find(survey.table, {.value = number, .table = set.table});
    if (there == nullptr) continue;
    const pid_t tid = survey.at(set.table).thread.value;
    kcmp_epoll_slot slot{
        .efd = static_cast<std::uint32_t>(set.value), .tfd = static_cast<std::uint32_t>(number), .toff = offset};
    const long answer = ::syscall(SYS_kcmp, tid, tid, KCMP_EPOLL_TFD, number, &slot);
    if (answer < 0) return fail_errno("kcmp", "KCMP_EPOLL_TFD");
    if (answer == 0) return there;
  }
  return nullptr;
}

// The open file of the tree that an entry is for whose number means something else now. Any table's set and any number
// of the file will do.
Result<std::optional<std::size_t>> file_of(const Survey& survey, RemoteFd set, int number, std::uint32_t offset) {
  const pid_t of_set = survey.at(set.table).thread.value;
  for (std::size_t file = 0; file < survey.first.size(); ++file) {
    const RemoteFd fd = survey.first[file];
    if (fd.value < 0) continue;
    kcmp_epoll_slot slot{
        .efd = static_cast<std::uint32_t>(set.value), .tfd = static_cast<std::uint32_t>(number), .toff = offset};
    const pid_t of_file = survey.at(fd.table).thread.value;
    const long answer = ::syscall(SYS_kcmp, of_file, of_set, KCMP_EPOLL_TFD, fd.value, &slot);
    if (answer < 0) return fail_errno("kcmp", "KCMP_EPOLL_TFD");
    if (answer == 0) return file;
  }
  return std::nullopt;
}

}  // namespace

Result<void> complete_epoll_sets(const Survey& survey) {
  for (std::size_t index = 0; index < survey.table.open_files.size(); ++index) {
    auto* const set = std::get_if<model::EpollSet>(&survey.table.open_files[index].object);
    if (set == nullptr) continue;
    const std::vector<RemoteFd> sets = numbers_by_table(survey.table, index);
    std::uint32_t offset = 0;  // among entries with the same number
    for (std::size_t at = 0; at < set->entries.size(); ++at) {
      model::EpollEntry& entry = set->entries[at];
      offset = at > 0 && set->entries[at - 1].fd.value == entry.fd.value ? offset + 1 : 0;
      const model::Descriptor* const found = RELIVE_TRY(watched(survey, sets, entry.fd.value, offset));
      entry.stale = found == nullptr;
      entry.fd.table = found == nullptr ? survey.first[index].table : found->fd.table;
      if (found == nullptr) entry.file = RELIVE_TRY(file_of(survey, sets.front(), entry.fd.value, offset));
      const auto file = found == nullptr ? entry.file : std::optional(found->open_file);
      if (file) survey.table.open_files[*file].watched = true;
    }
    std::ranges::stable_sort(set->entries, {}, &model::EpollEntry::fd);
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
