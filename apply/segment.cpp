#include "apply/segment.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <string>

#include "base/page_range.h"
#include "base/unique_fd.h"

namespace relive::apply {

namespace {

// "/SYSV0012abcd (deleted)"
key_t key_of(const model::Mapping& mapping) {
  constexpr std::size_t kPrefix = 5;
  std::uint32_t key = 0;
  const std::string& name = mapping.name;
  if (name.size() > kPrefix) std::from_chars(name.data() + kPrefix, name.data() + name.size(), key, 16);
  return static_cast<key_t>(key);
}

Result<Segment> make_segment(const model::Mapping& mapping, std::uint64_t size, model::Pid task) {
  const int wanted = static_cast<int>(mapping.inode);
  const auto refuse = [&](std::string_view why) {
    return fail(ErrorKind::refused,
                fmt::format("mapping {}: System V shared memory {} is gone since, and {}", model::mapping_text(mapping),
                            wanted, why),
                "nobody was attached to it any more, and it had been removed (IPC_RMID)");
  };
  const UniqueFd next(::open("/proc/sys/kernel/shm_next_id", O_WRONLY | O_CLOEXEC));
  const std::string text = std::to_string(wanted);
  if (!next || ::write(next.get(), text.data(), text.size()) < 0)
    return refuse("its id cannot be given again (kernel.shm_next_id, as root)");
  const int id = ::shmget(key_of(mapping), size, IPC_CREAT | IPC_EXCL | 0600);
  if (id < 0 && errno == EEXIST) return refuse("another one has its key");
  if (id < 0) return fail_errno("shmget", model::mapping_text(mapping));
  Segment made(id, page_ceil(size), true);
  if (id != wanted) return refuse("another one has its id");
  struct stat owner{};
  shmid_ds status{};
  if (::stat(fmt::format("/proc/{}", task.value).c_str(), &owner) != 0 || ::shmctl(id, IPC_STAT, &status) != 0)
    return fail_errno("shmctl", "IPC_STAT");
  status.shm_perm.uid = owner.st_uid;
  status.shm_perm.gid = owner.st_gid;
  if (::shmctl(id, IPC_SET, &status) != 0) return fail_errno("shmctl", "IPC_SET");
  return made;
}

}  // namespace

Segment::~Segment() {
  if (fresh_) ::shmctl(id_, IPC_RMID, nullptr);
}

Result<Segment> find_or_make_segment(const model::Mapping& mapping, std::uint64_t size, model::Pid task) {
  const int id = static_cast<int>(mapping.inode);
  shmid_ds status{};
  if (::shmctl(id, IPC_STAT, &status) != 0) {
    if (errno == EINVAL || errno == EIDRM) return make_segment(mapping, size, task);
    return fail_errno("shmctl", fmt::format("IPC_STAT {}", id));
  }
  // A key that was removed shows as IPC_PRIVATE from then on, while the name stays.
  const bool key_is_its = status.shm_perm.__key == key_of(mapping) || status.shm_perm.__key == IPC_PRIVATE;
  if (!key_is_its || page_ceil(status.shm_segsz) < size)
    return fail(ErrorKind::refused,
                fmt::format("mapping {}: another segment has the id {} now", model::mapping_text(mapping), id));
  return Segment(id, page_ceil(status.shm_segsz), false);
}

}  // namespace relive::apply
