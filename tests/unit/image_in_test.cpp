// An image of several tasks as one snapshot (rollback/image_in.h).
#include <gtest/gtest.h>

#include <utility>

#include "rollback/image_in.h"

namespace relive::rollback {
namespace {

image::ImagedTask task(int pid, int parent) {
  image::ImagedTask made;
  made.task.pid = {pid};
  made.task.process.parent = parent;
  made.task.process.group = 10;
  made.task.process.session = 10;
  return made;
}

// The task has these numbers, each for the open file with that id.
void open(image::ImagedTask& task, int fd, std::uint32_t id, model::OpenFile file) {
  task.descriptors.descriptors.push_back({{fd}, false, task.descriptors.open_files.size()});
  task.descriptors.open_files.push_back(std::move(file));
  task.file_ids.push_back(id);
}

model::OpenFile regular(const char* path) {
  model::OpenFile file;
  file.object = model::RegularFile{.path = path, .identity = {1, 2}};
  return file;
}

TEST(ImageIn, WhatTwoTablesLeadToIsOneOpenFile) {
  Arrival arrival;
  arrival.snapshot.info.pid = {10};
  image::ImagedTask parent = task(10, 0);
  image::ImagedTask child = task(11, 10);
  model::OpenFile locked = regular("/a");
  locked.locks.push_back({.kind = model::LockKind::posix, .last = 9});
  open(parent, 3, 7, locked);
  open(child, 4, 8, regular("/b"));
  open(child, 5, 7, locked);
  arrival.image.tasks.push_back(std::move(parent));
  arrival.image.tasks.push_back(std::move(child));
  snapshot_of(arrival);
  const model::DescriptorTable& all = arrival.snapshot.tree.descriptors;
  ASSERT_EQ(all.open_files.size(), 2U);
  ASSERT_EQ(all.descriptors.size(), 3U);
  EXPECT_EQ(all.descriptors[0].fd, (model::RemoteFd{3, 0}));
  EXPECT_EQ(all.descriptors[1].fd, (model::RemoteFd{4, 1}));
  EXPECT_EQ(all.descriptors[2].fd, (model::RemoteFd{5, 1}));
  EXPECT_EQ(all.descriptors[0].open_file, all.descriptors[2].open_file);
  // A lock of each table, in that table.
  const auto& locks = all.open_files[all.descriptors[0].open_file].locks;
  ASSERT_EQ(locks.size(), 2U);
  EXPECT_EQ(locks[0].table, 0);
  EXPECT_EQ(locks[1].table, 1);
}

TEST(ImageIn, TasksOfOneTableHaveOneAndZombiesHaveNone) {
  Arrival arrival;
  arrival.snapshot.info.pid = {10};
  image::ImagedTask parent = task(10, 0);
  image::ImagedTask child = task(11, 10);
  image::ImagedTask zombie = task(12, 10);
  parent.shared.files = child.shared.files = 5;
  zombie.state = image::TaskState::dead;
  zombie.exit_code = 0x700;
  open(parent, 3, 7, regular("/a"));
  open(child, 3, 7, regular("/a"));
  for (image::ImagedTask* one : {&parent, &child, &zombie}) arrival.image.tasks.push_back(std::move(*one));
  snapshot_of(arrival);
  const Snapshot& snapshot = arrival.snapshot;
  ASSERT_EQ(snapshot.tree.tasks.size(), 2U);
  EXPECT_EQ(snapshot.tree.tasks[0].table, snapshot.tree.tasks[1].table);
  EXPECT_EQ(snapshot.tree.descriptors.descriptors.size(), 1U);
  ASSERT_EQ(snapshot.forest.tasks.size(), 3U);
  EXPECT_EQ(snapshot.forest.tasks[1].sharing.files, 10);
  EXPECT_EQ(snapshot.forest.tasks[2].state, model::TaskState::zombie);
  EXPECT_EQ(snapshot.forest.tasks[2].status, 0x700);
}

TEST(ImageIn, WhatAnEpollSetWatchesIsMarked) {
  Arrival arrival;
  arrival.snapshot.info.pid = {10};
  image::ImagedTask only = task(10, 0);
  model::OpenFile set;
  set.object = model::EpollSet{.entries = {{.fd = {3}, .events = 1}}};
  open(only, 3, 1, regular("/a"));
  open(only, 4, 2, set);
  arrival.image.tasks.push_back(std::move(only));
  snapshot_of(arrival);
  EXPECT_TRUE(arrival.snapshot.tree.descriptors.open_files[0].watched);
  EXPECT_FALSE(arrival.snapshot.tree.descriptors.open_files[1].watched);
}

}  // namespace
}  // namespace relive::rollback
