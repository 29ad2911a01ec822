#include "files/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string_view>

#include "base/log.h"

namespace relive::files {

namespace {

constexpr std::string_view kPrefix = ".relive-files-";
constexpr std::array kParts = {"links", "copies", "trees"};

std::string hex(std::uint64_t number) { return fmt::format("{:x}", number); }

std::uint64_t mount_of(int fd) {
  struct statx seen{};
  return ::statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &seen) == 0 ? seen.stx_mnt_id : 0;
}

Result<std::string> read_whole(int directory, const std::string& name) {
  const UniqueFd fd(::openat(directory, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return fail_errno("open", name);
  std::string text;
  std::array<char, 65536> piece{};
  for (;;) {
    const ssize_t n = ::read(fd.get(), piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read", name);
    if (n == 0) return text;
    text.append(piece.data(), static_cast<std::size_t>(n));
  }
}

Result<void> write_whole(int directory, const std::string& name, std::string_view text) {
  const UniqueFd fd(::openat(directory, name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return fail_errno("create", name);
  while (!text.empty()) {
    const ssize_t n = ::write(fd.get(), text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("write", name);
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

// Field 22 of /proc/PID/stat, behind the name, which may hold anything; empty: there is no such process, or it has
// ended and was not waited for yet.
std::string start_time_of(const std::string& pid) {
  const UniqueFd proc(::open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
  const auto stat = read_whole(proc.get(), pid + "/stat");
  if (!stat || stat->rfind(')') == std::string::npos) return {};
  std::string_view rest = std::string_view(*stat).substr(stat->rfind(')'));
  if (rest.starts_with(") Z") || rest.starts_with(") X")) return {};
  constexpr int kFieldsBehindTheName = 20;
  for (int field = 0; field < kFieldsBehindTheName; ++field)
    rest.remove_prefix(std::min(rest.find(' ') + 1, rest.size()));
  return std::string(rest.substr(0, rest.find(' ')));
}

std::string owner_line(const std::string& pid) { return pid + " " + start_time_of(pid); }

std::string directory_of(const std::string& path) {
  const std::filesystem::path whole(path);
  return whole.has_parent_path() ? whole.parent_path().string() : "/";
}

bool owner_lives(std::string_view owner) {
  const std::string_view line = owner.substr(0, owner.find('\n'));
  const std::string pid(line.substr(0, line.find(' ')));
  return !pid.empty() && line == owner_line(pid) && !start_time_of(pid).empty();
}

std::optional<std::string> make_in(const std::string& where) {
  std::string path = fmt::format("{}/{}XXXXXX", where, kPrefix);
  if (::mkdtemp(path.data()) == nullptr) return std::nullopt;
  return path;
}

void remove_quietly(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

}  // namespace

Result<Store> Store::create(int directory, const std::string& path, const std::string& where) {
  for (const std::string& old : left_behind(path, where)) {
    const auto store = reopen(old);
    if (store && store->journal())
      return fail(ErrorKind::busy, fmt::format("the files below {} are half put back: {}", path, old),
                  "`relive rollback` of the snapshot that this was to finishes it");
    if (!store) remove_quietly(old);
  }
  Store store;
  const std::uint64_t mount = mount_of(directory);
  if (!where.empty()) {
    const auto made = make_in(where);
    if (!made) return fail_errno("mkdtemp", where);
    store.path_ = *made;
  } else {
    const UniqueFd beside(::open(directory_of(path).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    const bool same = beside && mount_of(beside.get()) == mount;
    auto made = same ? make_in(directory_of(path)) : std::nullopt;
    if (!made) made = make_in(path);
    if (!made)
      return with_context(Result<Store>(fail_errno("mkdtemp", path)),
                          "a place for the copy of its files (--files-store)");
    store.path_ = *made;
  }
  store.fd_.reset(::open(store.path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!store.fd_) return fail_errno("open", store.path_);
  for (const char* part : kParts)
    if (::mkdirat(store.fd_.get(), part, 0700) != 0) return fail_errno("mkdir", store.path_);
  RELIVE_TRY(
      write_whole(store.fd_.get(), "owner", fmt::format("{}\n{}\n", owner_line(std::to_string(::getpid())), path)));
  std::string place = store.path_;
  store.path_.clear();  // its destructor removes nothing: the other one's does
  Store opened = RELIVE_TRY(reopen(place));
  opened.same_mount_ = mount_of(opened.fd_.get()) == mount;
  if (directory_of(place) == path) {
    struct stat seen{};
    if (::fstat(opened.fd_.get(), &seen) == 0) opened.hidden_ = seen.st_ino;
  }
  return opened;
}

bool Store::has_journal_at(const std::string& place) { return ::access((place + "/journal").c_str(), F_OK) == 0; }

Result<Store> Store::reopen(const std::string& place) {
  Store store;
  store.fd_.reset(::open(place.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!store.fd_) return fail_errno("open", place);
  const std::array into = {&store.links_, &store.copies_, &store.trees_};
  for (std::size_t index = 0; index < kParts.size(); ++index) {
    into[index]->reset(::openat(store.fd_.get(), kParts[index], O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (!*into[index]) return fail_errno("open", fmt::format("{}/{}", place, kParts[index]));
  }
  const auto owner = read_whole(store.fd_.get(), "owner");
  if (owner) {
    const auto line = owner->find('\n');
    const std::string path = line == std::string::npos ? "" : owner->substr(line + 1, owner->rfind('\n') - line - 1);
    struct stat seen{};
    if (directory_of(place) == path && ::fstat(store.fd_.get(), &seen) == 0) store.hidden_ = seen.st_ino;
  }
  store.path_ = place;
  return store;
}

std::vector<std::string> Store::left_behind(const std::string& path, const std::string& where) {
  std::vector<std::string> all = all_of(path, where);
  std::erase_if(all, [](const std::string& place) {
    const auto owner = read_whole(AT_FDCWD, place + "/owner");
    return owner && owner_lives(*owner);
  });
  return all;
}

std::vector<std::string> Store::all_of(const std::string& path, const std::string& where) {
  std::vector<std::string> found;
  for (const std::string& place : {directory_of(path), path, where}) {
    if (place.empty()) continue;
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(place.c_str()), ::closedir);
    if (!stream) continue;
    while (const dirent* entry = ::readdir(stream.get())) {
      const std::string name(entry->d_name);
      if (!name.starts_with(kPrefix)) continue;
      struct stat seen{};
      if (::fstatat(::dirfd(stream.get()), entry->d_name, &seen, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISDIR(seen.st_mode) ||
          seen.st_uid != ::geteuid() || (seen.st_mode & 077U) != 0)
        continue;  // not one of ours
      const auto owner = read_whole(::dirfd(stream.get()), name + "/owner");
      if (!owner || !owner->ends_with("\n" + path + "\n")) continue;
      found.push_back(fmt::format("{}/{}", place, name));
    }
  }
  return found;
}

Store::~Store() {
  if (path_.empty() || journal()) return;
  remove_quietly(path_);
}

Result<bool> Store::keep(int directory, const std::string& name, std::uint64_t inode) {
  if (!same_mount_) return false;
  if (::linkat(directory, name.c_str(), links_.get(), hex(inode).c_str(), 0) == 0) return true;
  if (errno == EEXIST) {
    // A link from an earlier snapshot keeps its inode alive, so the number can only be the same one's.
    return true;
  }
  if (errno == EXDEV || errno == EPERM || errno == EMLINK || errno == EOPNOTSUPP) return false;
  return fail_errno("link", name);
}

Result<void> Store::give_link(std::uint64_t inode, int directory, const std::string& name) const {
  if (::linkat(links_.get(), hex(inode).c_str(), directory, name.c_str(), 0) != 0) return fail_errno("link", name);
  return {};
}

Result<Place> Store::link_of(std::uint64_t inode) const {
  Place place{links_.get(), hex(inode)};
  if (::faccessat(place.directory, place.name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) != 0)
    return fail(ErrorKind::not_found, fmt::format("{}/links/{} is gone", path_, place.name));
  return place;
}

void Store::drop_link(std::uint64_t inode) { ::unlinkat(links_.get(), hex(inode).c_str(), 0); }

Result<UniqueFd> Store::create_copy(std::uint64_t& number) {
  number = ++last_copy_;
  const std::string name = std::to_string(number);
  UniqueFd fd(::openat(copies_.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return fail_errno("create", fmt::format("{}/copies/{}", path_, name));
  return fd;
}

Result<UniqueFd> Store::open_copy(std::uint64_t number) const {
  const std::string name = std::to_string(number);
  UniqueFd fd(::openat(copies_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return fail_errno("open", fmt::format("{}/copies/{}", path_, name));
  return fd;
}

void Store::drop_copy(std::uint64_t number) { ::unlinkat(copies_.get(), std::to_string(number).c_str(), 0); }

Result<void> Store::save_tree(std::uint64_t number, const Tree& tree) {
  return with_context(write_whole(trees_.get(), std::to_string(number), to_text(tree)), path_);
}

Result<Tree> Store::load_tree(std::uint64_t number) const {
  return from_text(RELIVE_TRY(with_context(read_whole(trees_.get(), std::to_string(number)), path_)));
}

void Store::drop_tree(std::uint64_t number) { ::unlinkat(trees_.get(), std::to_string(number).c_str(), 0); }

Result<void> Store::open_journal(std::uint64_t tree) {
  return with_context(write_whole(fd_.get(), "journal", fmt::format("{}\n", tree)), path_);
}

// One write of a few bytes: whole, or not at all.
Result<void> Store::begin_journal() {
  const UniqueFd fd(::openat(fd_.get(), "journal", O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return fail_errno("open", path_ + "/journal");
  constexpr std::string_view kBegun = "begun\n";
  if (::write(fd.get(), kBegun.data(), kBegun.size()) != static_cast<ssize_t>(kBegun.size()))
    return fail_errno("write", path_ + "/journal");
  return {};
}

Result<void> Store::close_journal() {
  if (::unlinkat(fd_.get(), "journal", 0) != 0) return fail_errno("unlink", path_ + "/journal");
  return {};
}

std::optional<Store::Journal> Store::journal() const {
  const auto text = read_whole(fd_.get(), "journal");
  if (!text) return std::nullopt;
  Journal journal;
  const auto [end, code] = std::from_chars(text->data(), text->data() + text->size(), journal.tree);
  // One that broke off while it was written: nothing had been changed by then.
  if (code != std::errc{} || end == text->data() + text->size() || *end != '\n') return std::nullopt;
  journal.begun = text->ends_with("\nbegun\n");
  return journal;
}

}  // namespace relive::files
