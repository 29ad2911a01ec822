#include "capture/in_flight.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "capture/fdinfo.h"
#include "capture/kcmp.h"
#include "capture/locks.h"
#include "capture/opened.h"
#include "capture/sockets.h"

namespace relive::capture {

namespace {

constexpr unsigned kMemoryDevices = 1;  // major number, devices.txt

Result<bool> is_same(int ours, pid_t pid, int fd) {
  return RELIVE_TRY(compare_files(::getpid(), ours, pid, fd)) == std::strong_ordering::equal;
}

std::string link_of(int ours) {
  std::array<char, 4096> target{};
  const ssize_t size = ::readlink(fmt::format("/proc/self/fd/{}", ours).c_str(), target.data(), target.size());
  return {target.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
}

bool can_be_described(const struct stat& status, std::string_view link) {
  if (link.starts_with("/memfd:")) return false;
  return S_ISREG(status.st_mode) || S_ISDIR(status.st_mode) ||
         (S_ISCHR(status.st_mode) && major(status.st_rdev) == kMemoryDevices);
}

}  // namespace

Result<std::size_t> FilesInFlight::identify(UniqueFd ours) {
  for (std::size_t index = 0; index < survey_.first.size(); ++index) {
    const model::RemoteFd fd = survey_.first[index];
    if (RELIVE_TRY(is_same(ours.get(), survey_.at(fd.table).thread.value, fd.value))) return index;
  }
  for (const auto& [index, other] : unnumbered_)
    if (RELIVE_TRY(is_same(ours.get(), ::getpid(), other.get()))) return index;
  survey_.table.open_files.push_back(RELIVE_TRY(describe(ours.get())));
  unnumbered_.emplace_back(survey_.table.open_files.size() - 1, std::move(ours));
  return unnumbered_.back().first;
}

Result<model::OpenFile> FilesInFlight::describe(int ours) const {
  if (survey_.snapshot != nullptr && survey_.holds != nullptr) {
    for (const auto& [index, held] : survey_.holds->open_files) {
      if (!RELIVE_TRY(is_same(ours, ::getpid(), held.get()))) continue;
      model::OpenFile known = survey_.snapshot->open_files.at(index);
      known.same_as = index;
      return known;
    }
  }
  struct stat status{};
  if (::fstat(ours, &status) != 0) return fail_errno("fstat", "a descriptor in flight");
  const std::string link = link_of(ours);
  model::OpenFile file{.object = model::UnhandledFile{link}};
  if (!can_be_described(status, link)) return file;
  const UniqueFd fdinfo(::open("/proc/self/fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const Opened opened{
      .table = *std::ranges::find_if(survey_.tables, [](const Table& table) { return table.task != nullptr; }),
      .fd = model::RemoteFd{ours},
      .ours = ours,
      .fdinfo_directory = fdinfo.get(),
      .link = link,
      .status = status,
      .flags = static_cast<std::uint32_t>(::fcntl(ours, F_GETFL)),
      .position = std::max<off_t>(::lseek(ours, 0, SEEK_CUR), 0),
      .tables = survey_.tables};
  if ((opened.flags & O_PATH) == 0 && !RELIVE_TRY(parse_locks(RELIVE_TRY(opened.fdinfo()))).empty()) return file;
  file.status_flags = opened.flags;
  file.object = RELIVE_TRY((opened.flags & O_PATH) != 0 ? read_reference(opened)
                           : S_ISCHR(status.st_mode)    ? read_device(opened)
                                                        : read_regular(opened));
  return file;
}

Result<void> hold_files_in_flight(std::span<parasite::Visit* const> tables, const model::DescriptorTable& table,
                                  FileHolds& holds) {
  std::vector<bool> numbered(table.open_files.size(), false);
  for (const model::Descriptor& descriptor : table.descriptors) numbered[descriptor.open_file] = true;
  for (const model::Descriptor& descriptor : table.descriptors) {
    const auto* const socket = std::get_if<model::Socket>(&table.open_files[descriptor.open_file].object);
    if (socket == nullptr) continue;
    std::vector<std::size_t> files;
    for (const model::Message& message : socket->unread)
      files.insert(files.end(), message.files.begin(), message.files.end());
    const auto missing = [&](std::size_t file) { return !numbered[file] && !holds.open_files.contains(file); };
    if (std::ranges::none_of(files, missing)) continue;
    const UniqueFd duplicate =
        RELIVE_TRY(tables[static_cast<std::size_t>(descriptor.fd.table)]->task().borrow(descriptor.fd));
    std::size_t at = 0;
    // They come in the order in which they came before.
    const auto hold = [&](UniqueFd ours) -> Result<std::size_t> {
      if (at >= files.size()) return fail(ErrorKind::system, "unread messages carry more descriptors than before");
      const std::size_t file = files[at++];
      if (missing(file)) holds.open_files.emplace(file, std::move(ours));
      return file;
    };
    RELIVE_TRY(peek_messages(duplicate.get(), AF_UNIX, socket->type, {}, hold));
  }
  return {};
}

}  // namespace relive::capture
