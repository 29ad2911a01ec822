// The names that unix sockets have in the file system, made again in the task: with its rights, and as it gave them.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "apply/file_maker.h"
#include "base/result.h"
#include "model/sockets.h"

namespace relive::apply {

// The directory that a relative name counts from (Holds::references), and the working directory to come back to: spare
// numbers of the task. For anything else nothing.
struct NamePlace {
  model::RemoteFd directory;
  model::RemoteFd back;
};
// prepare. From here on an undo comes back to the working directory. `file`: of the wanted table. Errors: refused,
// where the directory is not known.
Result<std::optional<NamePlace>> place_of_name(FileMaker& maker, const model::Socket& socket, std::size_t file);
// What stands between the two is done where the name counts from. Cannot fail where place_of_name() did not.
void go_there(parasite::Program& program, const std::optional<NamePlace>& place);
void come_back(parasite::Program& program, const std::optional<NamePlace>& place);

// prepare: gives the new socket under the number `spare` the name of `socket` (any name: also an abstract one), and
// listens. The file gets its mode and owner again, or is deleted at once if it was deleted. A name that the task's own
// closed socket has left behind is moved aside; somebody else's is not touched, and refused.
Result<void> bind_unix(FileMaker& maker, model::RemoteFd spare, const model::Socket& socket, std::size_t file);

// "the address X of a socket that was closed since is taken by another socket", or what else `call` has failed with.
[[nodiscard]] std::unexpected<Error> address_error(const model::Socket& socket, std::string_view call, int error);

}  // namespace relive::apply
