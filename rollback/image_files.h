// The files of an image: found by their names, or made again from what the image has of them, and held as a snapshot
// holds them. Only those that a plan needs: what the living tasks have open and mapped stays theirs.
//
// Everything is opened by the task itself, with its own rights and where its root directory is: nobody gets through an
// image at what he may not open. What has no name any more is made anew: memfds, deleted files (ghosts).
#pragma once

#include <vector>

#include "base/result.h"
#include "diff/difference.h"
#include "rollback/image_in.h"
#include "rollback/stay.h"

namespace relive::rollback {

// Completes the holds of the snapshot for what `plan` takes from them. Comes back with what cannot be had, by name; in
// the tasks nothing has changed but that files were opened and closed again.
Result<std::vector<diff::Refusal>> find_files(Stay& stay, Arrival& arrival, const Living& living, const Plan& plan);

}  // namespace relive::rollback
