// The names that unix sockets have in the file system. Part of capture/descriptors.h.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"
#include "capture/survey.h"
#include "model/sockets.h"

namespace relive::capture {

// Finds the file that the name leads to: by asking the kernel (SIOCUNIXFILE, Linux 4.12, needs CAP_NET_ADMIN), else by
// looking where the name leads in the task. What is not found is left unknown. REQUIRES: socket.file has the inode.
Result<void> complete_name(const Survey& survey, std::size_t index, model::Socket& socket);

// The directory that a relative name counts from; none where it is not known, and for other names.
[[nodiscard]] UniqueFd open_name_directory(const model::Socket& socket);

// Where `relative` counts from, if it leads to `path`: "/a/b/c" and "b/c" give "/a". Empty where it does not fit.
[[nodiscard]] std::string directory_of_name(std::string_view path, std::string_view relative);

}  // namespace relive::capture
