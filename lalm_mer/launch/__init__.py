"""What the launched recipes share: settings, engines, run folders, and the builders at which config stops."""
