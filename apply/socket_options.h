// Setting options of sockets. Part of apply/sockets.h.
#pragma once

#include "apply/file_maker.h"
#include "base/result.h"
#include "diff/descriptors.h"
#include "model/sockets.h"

namespace relive::apply {

// On our duplicate of a new socket.
Result<void> set_option(int ours, const model::SocketOption& option);
// Those in which a new socket, of which `ours` is a duplicate, differs from the wanted one.
Result<void> set_options(int ours, const model::Socket& socket);
// On a living socket, with its inverse in the undo log.
Result<void> carry_out(FileMaker& maker, const diff::SetOption& op);

}  // namespace relive::apply
