pytest_plugins = ["pytester", "relive.pytest_plugin"]
