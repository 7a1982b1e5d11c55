"""What `flux provider new` writes: `plan` has the names and refuses bad ones, `package` has the files.

The texts beside these modules are `string.Template`s: whole files, and pieces that come once for each class.
"""
