"""A node's own files as samples: a folder of pictures, a CSV or an .npz, checked on the way in."""
