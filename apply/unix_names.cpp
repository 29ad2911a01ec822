#include "apply/unix_names.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <span>

#include "base/fault.h"
#include "task/procfs.h"

namespace relive::apply {

using model::RemoteFd;
using model::Socket;
using model::SocketState;
using parasite::Program;

namespace {

constexpr auto kHere = static_cast<std::uint64_t>(AT_FDCWD);

Result<model::TaskAddress> put_text(FileMaker& maker, const std::string& text) {
  return maker.visit().arena().put(std::as_bytes(std::span(text.c_str(), text.size() + 1)));
}

// `path`: as we see it.
bool somebody_listens(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return true;  // cannot be told: leave it alone
  std::memcpy(address.sun_path, path.data(), path.size());
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
         errno != ECONNREFUSED;
}

// One socket's name: in the task, and as we see it.
struct Name {
  std::string text;
  std::uint64_t directory;  // the task's number, or kHere
  std::string seen;         // through /proc, wherever it is
};

Name name_of(FileMaker& maker, const Socket& socket, const std::optional<NamePlace>& place, int reference) {
  const std::string text = model::path_of(socket);
  if (place) return {text, FileMaker::number(place->directory), fmt::format("/proc/self/fd/{}/{}", reference, text)};
  return {text, kHere, fmt::format("/proc/{}/root{}", maker.visit().task().pid().value, text)};
}

// A name that the task's own closed socket has left behind is moved aside; somebody else's is not touched.
Result<void> clear_name(FileMaker& maker, const Socket& socket, const Name& name) {
  parasite::Visit& visit = maker.visit();
  const auto there = RELIVE_TRY(put_text(maker, name.text));
  const bool deleted = socket.file && socket.file->deleted;
  struct stat status{};
  if (::lstat(name.seen.c_str(), &status) == 0) {
    if (deleted || !S_ISSOCK(status.st_mode) || somebody_listens(name.seen)) {
      return fail(ErrorKind::refused,
                  fmt::format("the address {} of a socket that was closed since is taken", name.text));
    }
    const std::string aside_text = fmt::format("{}.relive-{}", name.text, visit.task().pid().value);
    const auto aside = RELIVE_TRY(put_text(maker, aside_text));
    RELIVE_TRY(visit.record_undo("rename back " + name.text, SYS_renameat,
                                 {name.directory, aside.value, name.directory, there.value}));
    RELIVE_TRY(
        visit.syscall("rename " + name.text, SYS_renameat, {name.directory, there.value, name.directory, aside.value}));
    maker.workshop().cleanup.syscall("unlink " + aside_text, SYS_unlinkat, {name.directory, aside.value, 0},
                                     Program::OnError::go_on);
  } else if (errno != ENOENT) {
    return fail_errno("lstat", name.text);
  }
  return visit.record_undo("unlink " + name.text, SYS_unlinkat, {name.directory, there.value, 0});
}

// bind(2) has made the file with the task's present rights.
Result<void> dress(const Socket& socket, const Name& name) {
  if (!socket.file || !socket.file->there) return {};
  const UniqueFd file(::open(name.seen.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat status{};
  if (!file || ::fstat(file.get(), &status) != 0) return fail_errno("open O_PATH", name.text);
  const bool same_owner = status.st_uid == socket.file->owner && status.st_gid == socket.file->group;
  if (!same_owner && ::fchownat(file.get(), "", socket.file->owner, socket.file->group, AT_EMPTY_PATH) != 0)
    return fail_errno("chown", name.text);
  if (same_owner && (status.st_mode & ALLPERMS) == socket.file->mode) return {};
  // fchmod(2) takes no O_PATH descriptor.
  const std::string link = fmt::format("/proc/self/fd/{}", file.get());
  if (::chmod(link.c_str(), socket.file->mode) != 0) return fail_errno("chmod", name.text);
  return {};
}

}  // namespace

std::unexpected<Error> address_error(const Socket& socket, std::string_view call, int error) {
  const std::string address = model::address_text(socket.local);
  if (error == EADDRINUSE || error == EADDRNOTAVAIL) {
    return fail(ErrorKind::refused, fmt::format("the address {} of a socket that was closed since is {}", address,
                                                error == EADDRINUSE ? "taken by another socket" : "no longer there"));
  }
  return fail_errno(std::string(call), address, error);
}

Result<std::optional<NamePlace>> place_of_name(FileMaker& maker, const Socket& socket, std::size_t file) {
  if (!model::is_relative(socket)) return std::optional<NamePlace>{};
  const auto reference = maker.workshop().files.references.find(file);
  if (reference == maker.workshop().files.references.end()) {
    return fail(ErrorKind::refused,
                fmt::format("the unix socket '{}' was closed since, and which directory its name counts from was not "
                            "known at the snapshot",
                            model::path_of(socket)),
                "only CAP_NET_ADMIN lets relive ask for it (SIOCUNIXFILE) where it is not the working directory");
  }
  parasite::Visit& visit = maker.visit();
  const std::size_t directory = maker.helper();
  RELIVE_TRY(maker.give(directory, reference->second.get()));
  const UniqueFd cwd = RELIVE_TRY(
      task::open_proc(visit.task().pid(), fmt::format("task/{}/cwd", visit.driver().value), O_PATH | O_DIRECTORY));
  const std::size_t back = maker.helper();
  RELIVE_TRY(maker.give(back, cwd.get()));
  const NamePlace place{.directory = maker.spare(directory), .back = maker.spare(back)};
  RELIVE_TRY(visit.record_undo("fchdir back", SYS_fchdir, {FileMaker::number(place.back)}));
  // Both ways once: what follows cannot fail then.
  Program program;
  go_there(program, place);
  come_back(program, place);
  RELIVE_TRY(visit.run(program));
  return std::optional(place);
}

void go_there(Program& program, const std::optional<NamePlace>& place) {
  if (place)
    program.syscall(fmt::format("fchdir {}", place->directory.value), SYS_fchdir,
                    {FileMaker::number(place->directory)});
}
void come_back(Program& program, const std::optional<NamePlace>& place) {
  if (place) program.syscall(fmt::format("fchdir {}", place->back.value), SYS_fchdir, {FileMaker::number(place->back)});
}

Result<void> bind_unix(FileMaker& maker, RemoteFd spare, const Socket& socket, std::size_t file) {
  parasite::Visit& visit = maker.visit();
  const auto place = RELIVE_TRY(place_of_name(maker, socket, file));
  const Name name = name_of(maker, socket, place, place ? maker.workshop().files.references.at(file).get() : -1);
  const bool deleted = socket.file && socket.file->deleted;
  if (!name.text.empty()) RELIVE_TRY(clear_name(maker, socket, name));
  const auto address = RELIVE_TRY(visit.arena().put(socket.local));
  const auto text = RELIVE_TRY(put_text(maker, name.text));
  Program program;
  go_there(program, place);
  const std::size_t bound = program.syscall(
      "bind", SYS_bind, {FileMaker::number(spare), address.value, socket.local.size()}, Program::OnError::go_on);
  if (deleted) program.syscall("unlink", SYS_unlinkat, {kHere, text.value, 0}, Program::OnError::go_on);
  come_back(program, place);
  RELIVE_TRY(visit.run(program));
  if (program.result(bound) < 0) return address_error(socket, "bind", static_cast<int>(-program.result(bound)));
  if (!name.text.empty()) RELIVE_TRY(dress(socket, name));
  if (socket.state == SocketState::listening) {
    RELIVE_TRY(
        visit.syscall("listen", SYS_listen, {FileMaker::number(spare), static_cast<std::uint64_t>(socket.backlog)}));
  }
  return {};
}

}  // namespace relive::apply
