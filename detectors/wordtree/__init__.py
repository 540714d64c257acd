"""WordTree, the tree of classes of YOLO9000: its arrays, its files, its arithmetic."""
